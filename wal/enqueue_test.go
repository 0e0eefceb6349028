package wal

import "testing"

// TestEnqueueLeavesTheWakeUpToTheCaller: who holds a lock gets the wake-up, once and only when the committer sleeps; Append does it itself.
func TestEnqueueLeavesTheWakeUpToTheCaller(t *testing.T) {
	w := &WAL{}
	w.queue.init(1<<20, 1<<16)
	woken := 0
	w.queue.start(func() { woken++ })
	entry := func() *Entry { return &Entry{Kind: KindInline, Body: []byte("x")} }
	for _, step := range []struct {
		name   string
		add    func() (func(), error)
		sleeps bool
	}{
		{"Enqueue", func() (func(), error) { return w.Enqueue(entry()) }, true},
		{"Enqueue, the committer is awake", func() (func(), error) { return w.Enqueue(entry()) }, false},
		{"EnqueueBatch", func() (func(), error) { return w.EnqueueBatch([]*Entry{entry(), entry()}) }, true},
		{"EnqueueBatch, the committer is awake", func() (func(), error) { return w.EnqueueBatch([]*Entry{entry()}) }, false},
		{"EnqueueBatch of nothing", func() (func(), error) { return w.EnqueueBatch(nil) }, false},
	} {
		if step.sleeps {
			w.queue.take()
			if !w.queue.sleep(1) {
				t.Fatalf("%s: the committer does not sleep", step.name)
			}
		}
		woken = 0
		wake, err := step.add()
		if err != nil || woken != 0 || (wake != nil) != step.sleeps {
			t.Fatalf("%s: %v, woken %d times, a wake-up to call: %v; want one: %v", step.name, err, woken, wake != nil, step.sleeps)
		}
		if wake != nil {
			if wake(); woken != 1 {
				t.Fatalf("%s: the wake-up wakes %d times", step.name, woken)
			}
		}
	}
	for _, add := range []func() error{func() error { return w.Append(entry()) }, func() error { return w.AppendBatch([]*Entry{entry()}) }} {
		w.queue.take()
		w.queue.sleep(1)
		woken = 0
		if err := add(); err != nil || woken != 1 {
			t.Fatalf("Append: %v, woken %d times", err, woken)
		}
	}
	w.queue.close()
	if wake, err := w.Enqueue(entry()); wake != nil || err == nil {
		t.Fatalf("a closed queue: %v", err)
	}
}
