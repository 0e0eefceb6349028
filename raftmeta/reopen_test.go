package raftmeta

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"weir/internal/vfs"
	"weir/uring"
)

// TestLogGoneAstray: a leader is cut off with entries that nobody else has, and comes back when the others' logs do not reach back to where they
// agree. Its log goes further than the snapshot that it gets. Without reopen.go it panics or never catches up.
func TestLogGoneAstray(t *testing.T) {
	for _, how := range []string{"", "crash", "disk full"} {
		t.Run(how, func(t *testing.T) {
			clusterWith(t, 3, func(o *Options) { o.TrailingLogs = 1 }, func(t *testing.T, r *rig) {
				r.allReady()
				old := r.leader()
				r.snapshot(old.id)
				r.create("before")
				r.converged()
				var seen, past atomic.Uint64 // the newest version, and one that was shown after a newer one
				defer old.Subscribe(func(img *Image, _ *Delta) {
					if before := seen.Swap(img.Version); img.Version < before {
						past.Store(img.Version)
					}
				})()
				rest := r.others(old.id)
				r.net.isolate(old.id, true, rest...)
				for range 40 { // its own, for ever
					go func() { _, _ = old.Propose(t.Context(), CreateTopic{Name: "void", Assignment: [][]int32{{1}}}) }()
				}
				r.until("it gives up", func() bool { return !old.Leading() })
				lead := r.leader(rest...)
				for i := range 5 {
					r.create(fmt.Sprint("t", i))
				}
				for _, id := range rest {
					r.snapshot(id)
				}
				// One that leads from now on has not tried to send it anything older.
				if err := lead.TransferLeadership(t.Context()); err != nil {
					t.Fatal(err)
				}
				r.until("another leader", func() bool { lead = r.leader(rest...); return lead.Leading() && lead.Quorum().Term > old.Quorum().Term })
				if old.raft().LastIndex() <= lead.raft().LastIndex() {
					t.Fatalf("the stray log ends at %d, the leader's at %d", old.raft().LastIndex(), lead.raft().LastIndex())
				}
				before := old.raft()
				if how == "disk full" { // the snapshot is not written, so it is opened anew over the one before, which has less than is known
					old.fs.inject("snapshot", func() error { return syscall.ENOSPC })
				}
				r.net.isolate(old.id, false, rest...)
				r.create("after")
				if how == "disk full" {
					r.until("raft is opened anew", func() bool { return old.raft() != before })
					time.Sleep(5 * time.Second)
					if names, err := old.fs.List("/data/meta/snapshots"); err != nil || len(names) != 1 {
						t.Errorf("left of snapshots that could not be written: %v, %v", names, err)
					}
					old.fs.heal()
				}
				img := r.converged()
				if v := past.Load(); v != 0 {
					t.Errorf("an image of version %d was shown after a newer one", v)
				}
				if old.raft() == before {
					t.Fatal("raft was not opened anew: the test does not reach what it is for")
				}
				if img.Topic("void") != nil || img.Topic("before") == nil || img.NumTopics() != 7 {
					t.Errorf("%d topics, void %v", img.NumTopics(), img.Topic("void"))
				}
				if how == "crash" {
					r.stop(old.id)
					r.start(old.id, nil)
				}
				r.create("last")
				r.converged()
				r.checkOffices()
			})
		})
	}
}

// TestLogThatASnapshotReplaced is what a start finds after a crash between a snapshot's installation and the log's deletion.
func TestLogThatASnapshotReplaced(t *testing.T) {
	tests := []struct {
		name string
		snap raft.SnapshotMeta
		kept bool
	}{
		{"of the same log", raft.SnapshotMeta{Index: 5, Term: 1}, true},
		{"of its end", raft.SnapshotMeta{Index: 10, Term: 1}, true},
		{"of another leader", raft.SnapshotMeta{Index: 5, Term: 2}, false},
		{"beyond its end", raft.SnapshotMeta{Index: 12, Term: 1}, false},
		{"before its beginning", raft.SnapshotMeta{Index: 1, Term: 1}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s := storeCovered(t, vfs.OS{}, dir, tt.snap.Index)
			storeRange(t, s, 1, 10, 1)
			if err := s.DeleteRange(1, 3); err != nil {
				t.Fatal(err)
			}
			o := Options{}
			o.setDefaults()
			m := &Meta{o: o, store: s}
			if err := m.dropReplaced(&tt.snap); err != nil {
				t.Fatal(err)
			}
			s = reopenStore(t, s, dir)
			if last, _ := s.LastIndex(); (last == 10) != tt.kept {
				t.Errorf("the log ends at %d, kept is to be %v", last, tt.kept)
			}
			if s.prefixDeleted() > max(tt.snap.Index, 2) {
				t.Errorf("entries up to %d are gone as if a snapshot had them, it ends at %d", s.prefixDeleted(), tt.snap.Index)
			}
			if err := s.close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestLateSnapshot: an attempt whose answer got lost, and which raft takes when more has been applied since, does not take the image back.
func TestLateSnapshot(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		r.allReady()
		r.create("early")
		old := r.converged()
		for i := range 5 {
			r.create(fmt.Sprint("t", i))
		}
		img := r.converged()
		lead := r.leader()
		x := r.nodes[r.others(lead.id)[0]]
		data := encodeImage(old)
		c := &snapshotChunk{transfer: 1, data: data, req: raft.InstallSnapshotRequest{
			Size: int64(len(data)), Term: lead.Quorum().Term, LastLogIndex: old.Version, LastLogTerm: lead.Quorum().Term,
			Configuration: raft.EncodeConfiguration(configuration(lead.raft())), ConfigurationIndex: 1,
		}}
		b, err := x.HandleRPC(t.Context(), RPCInstallSnapshot, encodeChunk(lead.trans.head(), c))
		if err != nil {
			t.Fatal(err)
		}
		var resp raft.InstallSnapshotResponse
		if err := decodeAnswer(b, func(d *decoder) { resp.Term, resp.Success = d.uint(), d.bool() }); err != nil || !resp.Success {
			t.Fatalf("answer %+v, %v: the snapshot is there", resp, err)
		}
		if x.Image().Version < img.Version || x.Image().Topic("t4") == nil {
			t.Fatalf("the image went from version %d to %d", img.Version, x.Image().Version)
		}
		r.create("after")
		r.converged()
	})
}

// TestCrashInAnInstallation: the snapshot's file is there, the log that it replaces, too.
func TestCrashInAnInstallation(t *testing.T) {
	clusterWith(t, 3, func(o *Options) { o.TrailingLogs = 1 }, func(t *testing.T, r *rig) {
		r.allReady()
		r.create("early")
		r.converged()
		lead := r.leader()
		victim := r.nodes[r.others(lead.id)[0]]
		r.net.isolate(victim.id, true, r.others(victim.id)...)
		for i := range 5 {
			r.create(fmt.Sprint("t", i))
		}
		r.snapshot(lead.id)
		r.stop(victim.id)
		ids, err := lead.snaps.ids()
		if err != nil || len(ids) == 0 {
			t.Fatal(ids, err)
		}
		b, err := readWhole(lead.fs, lead.snaps.file(ids[0]), snapshotBytesMax)
		if err != nil {
			t.Fatal(err)
		}
		d := newDisk(victim.fs, lead.o.Ring, lead.o.IOTimeout)
		if err := d.write(lead.snaps.file(ids[0]), b); err != nil {
			t.Fatal(err)
		}
		r.start(victim.id, nil)
		for _, id := range r.others(victim.id) {
			r.net.isolate(victim.id, false, id)
		}
		r.create("after")
		r.converged()
	})
}

// TestLeaderBehindTheFollowersLog: a leader asks about a place that the follower has cut off its log. It is committed, so they agree there.
func TestLeaderBehindTheFollowersLog(t *testing.T) {
	clusterWith(t, 3, func(o *Options) { o.TrailingLogs = 1 }, func(t *testing.T, r *rig) {
		r.allReady()
		for i := range 8 {
			r.create(fmt.Sprint("t", i))
		}
		r.converged()
		lead := r.leader()
		x := r.nodes[r.others(lead.id)[0]]
		r.snapshot(x.id)
		first, _ := x.store.FirstIndex()
		applied := x.raft().AppliedIndex()
		for _, entries := range []uint64{0, 1, applied - first + 2} {
			a := &raft.AppendEntriesRequest{Term: lead.Quorum().Term, PrevLogEntry: first - 2, PrevLogTerm: lead.Quorum().Term}
			for i := range entries {
				var l raft.Log
				if err := lead.store.GetLog(first-1+i, &l); err != nil {
					t.Fatal(err)
				}
				a.Entries = append(a.Entries, &l)
			}
			b, err := x.HandleRPC(t.Context(), RPCAppendEntries, encodeAppend(lead.trans.head(), a))
			if err != nil {
				t.Fatal(err)
			}
			var resp raft.AppendEntriesResponse
			if err := decodeAnswer(b, func(d *decoder) { decodeAppendAnswer(d, &resp) }); err != nil || !resp.Success {
				t.Errorf("%d entries behind %d, the log begins at %d: %+v, %v", entries, a.PrevLogEntry, first, resp, err)
			}
		}
		r.create("after")
		r.converged()
	})
}

// TestOwnSnapshotAndAnInstallation: a follower is writing a snapshot of its own, slowly, when the leader sends it a newer one. Raft takes the place of
// whichever is finished last for what it has.
func TestOwnSnapshotAndAnInstallation(t *testing.T) {
	clusterWith(t, 3, func(o *Options) { o.TrailingLogs, o.IOTimeout = 1, time.Minute }, func(t *testing.T, r *rig) {
		r.allReady()
		r.create("early")
		r.converged()
		lead := r.leader()
		x := r.nodes[r.others(lead.id)[0]]
		r.net.isolate(x.id, true, r.others(x.id)...)
		for i := range 5 {
			r.create(fmt.Sprint("t", i))
		}
		r.snapshot(lead.id)
		var writes atomic.Int32
		x.fs.inject("snapshot", func() error {
			if writes.Add(1) == 1 {
				time.Sleep(20 * time.Second)
			}
			return nil
		})
		ended := make(chan error, 1)
		go func() { ended <- x.takeSnapshot() }()
		time.Sleep(time.Millisecond)
		r.net.isolate(x.id, false, r.others(x.id)...)
		r.until("it has everything", func() bool { return x.Image().Topic("t4") != nil })
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if got, want := x.raft().LastIndex(), lead.raft().LastIndex(); got < want {
			t.Errorf("it votes as if its log ended at %d, and it has everything up to %d", got, want)
		}
		if at, _ := x.snaps.anchor(); at < 6 {
			t.Errorf("its newest snapshot is said to end at %d", at)
		}
		r.create("after")
		r.converged()
	})
}

// TestInstallationOutlivesItsRequest: whoever waits for it has gone; a snapshot of one's own still has to wait.
func TestInstallationOutlivesItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := Options{}
		o.setDefaults()
		tr := newTransport(&o, func() string { return "" })
		defer tr.close()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := tr.install(ctx, raft.RPC{Command: &raft.InstallSnapshotRequest{}})
			ended <- err
		}()
		rpc := <-tr.consume
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
		synctest.Wait()
		if len(tr.snapshotting) != 1 {
			t.Error("a snapshot may be taken while another one is being installed")
		}
		rpc.Respond(nil, nil)
		synctest.Wait()
		if len(tr.snapshotting) != 0 {
			t.Error("no snapshot can be taken any more")
		}
	})
}

// TestSnapshotsEndOutOfOrder: the newest is the one that goes furthest, not the one that was written last.
func TestSnapshotsEndOutOfOrder(t *testing.T) {
	o := Options{FS: vfs.NewMem(), Ring: uring.Options{Backend: uring.BackendPortable}}
	o.setDefaults()
	s, err := openSnapshots(newDisk(o.FS, o.Ring, o.IOTimeout), "/s", o.Clock, o.Logger, o.Metrics)
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range []uint64{15, 9} {
		sink, err := s.Create(1, index, 3, raft.Configuration{}, 1, nil)
		if err == nil {
			err = sink.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if index, term := s.anchor(); index != 15 || term != 3 {
		t.Errorf("the newest ends at %d of term %d", index, term)
	}
}

// TestUnmuteAfterAnotherTear: what was torn again meanwhile stays silent.
func TestUnmuteAfterAnotherTear(t *testing.T) {
	o := Options{}
	o.setDefaults()
	tr := newTransport(&o, func() string { return "" })
	defer tr.close()
	tr.mute()
	torn := tr.tears()
	tr.mute()
	tr.unmute(torn)
	if _, err := tr.mayAnswer(); !errors.Is(err, errTorn) {
		t.Errorf("got %v, want %v", err, errTorn)
	}
	tr.unmute(tr.tears())
	if _, err := tr.mayAnswer(); err != nil {
		t.Error(err)
	}
}
