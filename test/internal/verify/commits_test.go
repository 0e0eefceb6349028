package verify

import (
	"strings"
	"testing"
)

// expect is a finding: "" is none.
func expect(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("found %v, want %q", err, want)
	}
}

// TestCommitsSee: offsets of groups that go back, and such as nobody committed, are found.
func TestCommitsSee(t *testing.T) {
	c := NewCommits()
	expect(t, c.Check("g", c.Floor("g"), -1), "")
	for range 5 {
		c.Next("g") // 0 to 4
	}
	c.Ack("g", 2)
	floor := c.Floor("g")
	for got, want := range map[int64]string{-1: "GOES BACK", 1: "GOES BACK", 2: "", 5: "INVENTED"} {
		expect(t, c.Check("g", floor, got), want)
	}
	expect(t, c.Check("g", floor, 4), "") // tried, and done for all that anybody knows
	expect(t, c.Check("g", c.Floor("g"), 3), "GOES BACK")
	// An answer to a question from before the acknowledgement may be older.
	floor = c.Floor("g")
	c.Ack("g", c.Next("g"))
	expect(t, c.Check("g", floor, 4), "")
	if places := c.Places(); len(places) != 1 || places[0] != "g" {
		t.Errorf("places %v", places)
	}
}

// TestTopicsSee: topics that are lost, come back or come from nowhere are found.
func TestTopicsSee(t *testing.T) {
	topics := NewTopics()
	for _, name := range []string{"tried", "made", "doomed", "gone"} {
		topics.Creating(name)
	}
	for _, name := range []string{"made", "doomed", "gone"} {
		topics.Created(name)
	}
	topics.Dropping("doomed")
	topics.Dropping("gone")
	topics.Dropped("gone")
	if created, dropped := topics.Counts(); created != 3 || dropped != 1 {
		t.Errorf("created %d, dropped %d", created, dropped)
	}
	for _, c := range []struct {
		have []string
		want string
	}{
		{[]string{"made"}, ""},
		{[]string{"made", "tried", "doomed"}, ""},
		{[]string{"tried", "doomed"}, "LOST"},
		{nil, "LOST"},
		{[]string{"made", "gone"}, "RISEN"},
		{[]string{"made", "other"}, "INVENTED"},
	} {
		expect(t, topics.Check(c.have), c.want)
	}
}
