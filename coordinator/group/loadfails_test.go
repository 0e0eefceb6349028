package group

import "testing"

// TestTopicDeletedWhileALoadFails: what was deleted while a load failed, or before it is tried again, is gone after the one that succeeds.
func TestTopicDeletedWhileALoadFails(t *testing.T) {
	for _, when := range []string{"during", "after"} {
		st := &loadingStorage{fakeStorage: newFakeStorage()}
		o := Options{Storage: st, Partitions: 1, Clock: newFakeClock()}
		c := New(o)
		if err := c.Load(0, 0); err != nil {
			t.Fatal(err)
		}
		for i, topic := range []string{"kept", "gone"} {
			if code := commitOne(c, "g", topic, int64(i)); code != OK {
				t.Fatal(code)
			}
		}
		c.Close()

		c = New(o)
		st.during = func() {
			if when == "during" {
				c.TopicDeleted("gone", [16]byte{})
			}
			st.fakeStorage.epoch = 1 // this load fails
		}
		if err := c.Load(0, 0); err == nil {
			t.Fatal("the load did not fail")
		}
		st.during, st.fakeStorage.epoch = nil, 0
		if when == "after" {
			c.TopicDeleted("gone", [16]byte{})
		}
		if err := c.Load(0, 0); err != nil {
			t.Fatal(err)
		}
		var got OffsetsResult
		c.FetchOffsets(&OffsetsRequest{Group: "g"}, func(r OffsetsResult) { got = r })
		if len(got.Topics) != 1 || got.Topics[0].Name != "kept" {
			t.Errorf("%s: offsets %+v", when, got)
		}
		c.Close()
	}
}
