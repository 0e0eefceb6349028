package group

import (
	"errors"
	"io"
	"log/slog"
	"testing"

	"weir/internal/record"
)

func testSettings() *settings {
	c := New(Options{Storage: newFakeStorage(), Clock: newFakeClock(), Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	return &c.conf
}

// FuzzReplay: any record is taken, skipped, or refused as corrupt; it never panics, and what was taken can be written
// and read again.
func FuzzReplay(f *testing.F) {
	conf := testSettings()
	g := newGroup("g", conf, 1)
	var fx effects
	g.protocolType = "consumer"
	p := "range"
	g.protocol = &p
	id := "i"
	g.add(&fx, &member{id: "m", instance: &id, protocols: []Protocol{{Name: p, Metadata: consumerMetadata("t")}}, assignment: []byte("A")})
	seed := g.metadataRecords(1, nil)[0]
	f.Add(seed.Key, seed.Value)
	for _, o := range []offset{{offset: 1, leaderEpoch: -1}, {offset: 2, expireMs: 7, metadata: "x"}, {offset: 3, topicID: [16]byte{1}}} {
		r := offsetRecord("g", "t", 3, &o, 1)
		f.Add(r.Key, r.Value)
	}
	f.Add(groupTombstone("g", 1).Key, []byte(nil))
	f.Add([]byte{0, 9}, []byte("later"))
	f.Add([]byte{0}, []byte{})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		l := newLoader(conf, 1)
		if len(value) == 0 {
			value = nil
		}
		if err := l.replay(&record.Record{Key: key, Value: value}); err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		for _, g := range l.groups {
			again := newLoader(conf, 1)
			for _, r := range g.metadataRecords(1, nil) {
				if err := again.replay(&r); err != nil {
					t.Fatalf("what was read cannot be read again: %v", err)
				}
			}
			if a, b := text(g.describe()), text(again.groups[g.id].describe()); a != b {
				t.Fatalf("read %s, and again %s", a, b)
			}
		}
	})
}

func FuzzSubscription(f *testing.F) {
	f.Add(consumerMetadata("a", "b"))
	f.Add([]byte{0, 1, 0x7f, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		topics, err := subscribedTopics(b)
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("error of another kind: %v", err)
		}
		if len(topics)*2 > len(b) {
			t.Fatalf("%d topics from %d bytes", len(topics), len(b))
		}
	})
}
