package raftmeta

import (
	"errors"
	"testing"
)

// A decommission outlives restarts and registrations of its broker, and snapshots; only SetLeaving and UnregisterBroker end it.
func TestSetLeaving(t *testing.T) {
	img, index := emptyImage(), uint64(0)
	do := func(c Command) Result {
		t.Helper()
		index++
		next, _, results := Apply(img, index, c)
		img = next
		return results[0]
	}
	register := func(life byte) {
		t.Helper()
		if r := do(RegisterBroker{ID: 4, Host: "h", Port: 1, PeerHost: "p", PeerPort: 2, Incarnation: testID(life), Fenced: true}); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	leaves := func(want bool) {
		t.Helper()
		if got := img.Broker(4).Leaving; got != want {
			t.Fatalf("leaving: %v, want %v", got, want)
		}
	}
	if r := do(SetLeaving{ID: 4, Leaving: true}); !errors.Is(r.Err, ErrInvalidBroker) {
		t.Fatalf("a broker that is not registered: %v", r.Err)
	}
	register(1)
	leaves(false)
	do(SetLeaving{ID: 4, Leaving: true})
	leaves(true)
	version := img.Version
	if do(SetLeaving{ID: 4, Leaving: true}); img.Version != version {
		t.Error("asking again is a change")
	}
	register(1) // the same process
	leaves(true)
	register(2) // another one
	leaves(true)
	if do(SetBroker{ID: 4, Epoch: img.Broker(4).Epoch}); img.Broker(4).Fenced {
		t.Fatal("still fenced")
	}
	leaves(true)
	back, err := decodeImage(encodeImage(img))
	if err != nil || !back.Broker(4).Leaving {
		t.Fatalf("after a snapshot: %+v, %v", back, err)
	}
	do(SetLeaving{ID: 4})
	leaves(false)
	do(SetLeaving{ID: 4, Leaving: true})
	do(UnregisterBroker{ID: 4})
	register(3)
	leaves(false)
}

// Snapshots of image version 2 know nobody who leaves.
func TestImageVersion2(t *testing.T) {
	img, _, _ := Apply(emptyImage(), 1, RegisterBroker{ID: 1, Host: "h", Port: 1}, SetLeaving{ID: 1, Leaving: true})
	b := encodeImage(img)
	var head encoder
	head.byte(imageVersion)
	head.uint(img.Version)
	head.string(img.ClusterID)
	head.int(img.producerID)
	head.uint(1)
	head.int(1)
	head.string("h")
	head.int(1)
	head.string("")
	head.int(img.brokers[0].Epoch)
	head.string("")
	head.int(0)
	head.id([16]byte{})
	head.bool(false)
	head.bool(false)
	at := len(head.b) // of the byte that version 2 lacks
	old := append([]byte{2}, b[1:at]...)
	old = append(old, b[at+1:]...)
	back, err := decodeImage(old)
	if err != nil || back.Broker(1) == nil || back.Broker(1).Leaving || b[at] != 1 {
		t.Fatalf("%+v, %v", back, err)
	}
}
