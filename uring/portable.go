package uring

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"weir/internal/lockmeter"
	"weir/internal/vfs"
)

// portable is the backend without io_uring: a bounded pool of goroutines that block in the methods of vfs.File. A
// stalled disk can hold all of them; what waits behind them is taken back at its deadline.
type portable struct {
	r      *ring
	signal chan struct{} // capacity 1: something finished, or interrupt
	timer  *time.Timer   // the owner's; nil until first used
	wg     sync.WaitGroup

	mu struct {
		lockmeter.Mutex
		work     sync.Cond
		queue    []job // waiting ones from index next on
		next     int
		finished []finish
		workers  int // never fewer than before
		idle     int
		closed   bool
	}
}

// job is what a worker needs of an operation. It does not look at the slot: that belongs to the owner.
type job struct {
	s     *slot
	kind  Kind
	file  vfs.File
	buf   []byte
	off   int64
	bytes int64
}

func newPortable(r *ring) *portable {
	p := &portable{r: r, signal: make(chan struct{}, 1)}
	p.mu.MeterBy(r.opt.Locks, lockmeter.DiskQueue)
	p.mu.work.L = &p.mu
	return p
}

func (p *portable) name() string { return BackendPortable }

func (p *portable) describe() string {
	return fmt.Sprintf("a pool of %d threads", p.r.opt.Threads)
}

func (p *portable) accept(*Op) error { return nil }

func (p *portable) start(s *slot) {
	op := s.op
	j := job{s: s, kind: op.Kind, file: op.File, buf: op.Buf, off: op.Off, bytes: op.Len}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.queue = append(p.mu.queue, j)
	switch {
	case p.mu.idle > 0:
		p.mu.idle--
		p.mu.work.Signal()
	case p.mu.workers < p.r.opt.Threads:
		p.mu.workers++
		p.wg.Go(p.worker)
	}
}

// cancel takes back an operation that no worker has begun.
func (p *portable) cancel(s *slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := p.mu.next; i < len(p.mu.queue); i++ {
		if p.mu.queue[i].s == s {
			p.mu.queue = slices.Delete(p.mu.queue, i, i+1)
			p.mu.finished = append(p.mu.finished, finish{s: s, err: ErrDeadline})
			p.interrupt()
			return
		}
	}
}

func (p *portable) worker() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for p.mu.next == len(p.mu.queue) {
			if p.mu.closed {
				return
			}
			p.mu.idle++
			p.mu.work.Wait()
		}
		j := p.takeLocked()
		p.mu.Unlock()
		n, err := j.run()
		p.mu.Lock()
		p.mu.finished = append(p.mu.finished, finish{s: j.s, n: n, err: err})
		p.interrupt()
	}
}

// takeLocked takes the oldest waiting job, and uses the queue's memory again once all are taken, or most.
func (p *portable) takeLocked() job {
	j := p.mu.queue[p.mu.next]
	p.mu.queue[p.mu.next] = job{}
	p.mu.next++
	if p.mu.next == len(p.mu.queue) || p.mu.next >= p.r.opt.Depth {
		p.mu.queue = slices.Delete(p.mu.queue, 0, p.mu.next)
		p.mu.next = 0
	}
	return j
}

func (j *job) run() (int, error) {
	switch j.kind {
	case OpRead:
		n, err := j.file.ReadAt(j.buf, j.off)
		if n == len(j.buf) {
			err = nil // io.ReaderAt may report the end of file early
		}
		return n, err
	case OpWrite:
		return j.file.WriteAt(j.buf, j.off)
	case OpFsync:
		return 0, j.file.Sync()
	case OpFdatasync:
		return 0, j.file.Datasync()
	case OpFallocate:
		return 0, j.file.Allocate(j.off, j.bytes)
	}
	return 0, fmt.Errorf("%w: %s", ErrInvalid, j.kind)
}

// gather collects what the workers finished.
func (p *portable) gather(block bool, limit time.Duration) error {
	if p.collect() || !block {
		return nil
	}
	var expired <-chan time.Time
	if limit > 0 {
		if p.timer == nil {
			p.timer = time.NewTimer(limit)
		} else {
			p.timer.Reset(limit)
		}
		expired = p.timer.C
	}
	select {
	case <-p.signal:
	case <-expired:
	}
	p.r.back()
	p.r.returns.Add(1)
	if limit > 0 {
		p.timer.Stop()
	}
	p.collect()
	return nil
}

func (p *portable) collect() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.mu.finished) == 0 {
		return false
	}
	p.r.finished = append(p.r.finished, p.mu.finished...)
	clear(p.mu.finished)
	p.mu.finished = p.mu.finished[:0]
	return true
}

func (p *portable) interrupt() {
	select {
	case p.signal <- struct{}{}:
	default:
	}
}

func (p *portable) close() error {
	p.abandon()
	p.wg.Wait() // nothing is running: they are all idle
	return nil
}

// abandon lets idle workers end; those that are stuck end when the disk lets go of them.
func (p *portable) abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.closed = true
	p.mu.work.Broadcast()
}
