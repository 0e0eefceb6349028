package replica

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"weir/internal/record"
	"weir/raftmeta"
	"weir/segment"
)

// crashModel is what a workload did to a node, as a client would know it.
type crashModel struct {
	mu     sync.Mutex
	topics []*crashTopic
}

// crashTopic and its partitions are guarded by the model's lock.
type crashTopic struct {
	name       string
	kind       crashKind
	created    bool // acknowledged
	deleting   bool // asked for
	deleted    bool // acknowledged
	partitions []*crashPartition
}

type crashKind struct {
	name       string
	partitions int32
	configs    map[string]string
	idempotent bool
	retention  bool // old segments go by themselves
	compact    bool
	cuts       bool // truncated now and then: see cutcrash_test.go
}

var crashKinds = []crashKind{
	{name: "plain", partitions: 2},
	{name: "rolling", partitions: 2, configs: map[string]string{"internal.segment.bytes": "4000"}, idempotent: true},
	{name: "kept", partitions: 1, configs: map[string]string{"internal.segment.bytes": "3000", "retention.bytes": "9000"}, retention: true},
	{name: "compacted", partitions: 1, configs: map[string]string{"cleanup.policy": "compact", "internal.segment.bytes": "3000", "min.cleanable.dirty.ratio": "0.01"}, compact: true},
	{name: "cut", partitions: 2, configs: map[string]string{"internal.segment.bytes": "4000"}, cuts: true},
	{name: "cutlong", partitions: 1, cuts: true},
}

// crashPartition: batches are submitted in order by one producer.
type crashPartition struct {
	submitted []record.Batch // as they are to be stored
	acked     int            // so many of them are acknowledged
	trimTo    int64          // log start that was asked for
	trimmed   int64          // and acknowledged
	ops       []crashOp      // of one that is truncated now and then, instead of submitted
}

// crashState is what was acknowledged at a moment.
type crashState struct {
	topics []crashTopic
	parts  [][]crashPartition
}

func (m *crashModel) acknowledged() *crashState {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &crashState{}
	for _, t := range m.topics {
		s.topics = append(s.topics, *t)
		var parts []crashPartition
		for _, p := range t.partitions {
			parts = append(parts, crashPartition{acked: p.acked, trimmed: p.trimmed})
		}
		s.parts = append(s.parts, parts)
	}
	return s
}

// run is one life's workload: topics come and go, while each partition has a producer.
func (m *crashModel) run(t *testing.T, b *crashed, rng *rand.Rand) {
	for _, kind := range crashKinds {
		m.makeTopic(t, b, kind)
	}
	m.mu.Lock()
	topics := slices.DeleteFunc(slices.Clone(m.topics), func(t *crashTopic) bool { return t.deleting })
	m.mu.Unlock()
	var wg sync.WaitGroup
	for _, topic := range topics {
		for i := range topic.partitions {
			seed := rng.Uint64()
			produce := m.produce
			if topic.kind.cuts {
				produce = m.produceAndCut
			}
			wg.Go(func() { produce(t, b, topic, int32(i), rand.New(rand.NewPCG(seed, 0))) })
		}
	}
	wg.Go(func() { m.dropTopic(t, b, topics[0]) })
	wg.Wait()
}

func (m *crashModel) makeTopic(t *testing.T, b *crashed, kind crashKind) {
	m.mu.Lock()
	topic := &crashTopic{name: fmt.Sprintf("%s-%d", kind.name, len(m.topics)), kind: kind}
	for range kind.partitions {
		topic.partitions = append(topic.partitions, &crashPartition{})
	}
	m.topics = append(m.topics, topic)
	m.mu.Unlock()
	if err := b.propose(raftmeta.CreateTopic{Name: topic.name, Partitions: kind.partitions, Configs: kind.configs}); err != nil {
		t.Error(err)
		return
	}
	m.mu.Lock()
	topic.created = true
	m.mu.Unlock()
}

// dropTopic deletes a topic while it is written to.
func (m *crashModel) dropTopic(t *testing.T, b *crashed, topic *crashTopic) {
	m.mu.Lock()
	topic.deleting = true
	m.mu.Unlock()
	if err := b.propose(raftmeta.DeleteTopic{Name: topic.name}); err != nil {
		t.Error(err)
		return
	}
	m.mu.Lock()
	topic.deleted = true
	m.mu.Unlock()
}

const crashBatches = 14 // of a producer in one life

// produce writes to one partition, up to three batches in flight.
func (m *crashModel) produce(t *testing.T, b *crashed, topic *crashTopic, index int32, rng *rand.Rand) {
	p := b.ByName(topic.name, index)
	if p == nil {
		return // deleted
	}
	mine := topic.partitions[index]
	inFlight := make(chan error, 3)
	running := 0
	wait := func() bool {
		err := <-inFlight
		running--
		if err != nil && !errors.Is(err, ErrNotHere) {
			t.Errorf("append to %s: %v", p.name, err)
		}
		return err == nil
	}
	for n := range crashBatches {
		batch := m.nextBatch(t, topic, mine, int64(index), rng)
		if err := b.Reserve(len(batch), time.Minute); err != nil {
			t.Error(err)
			return
		}
		running++
		p.Append(&Append{Batch: batch, Done: func(a *Append) {
			if a.Err == nil {
				m.mu.Lock()
				mine.acked++
				m.mu.Unlock()
			}
			inFlight <- a.Err
		}})
		ok := true
		for running > rng.IntN(3) {
			ok = wait() && ok
		}
		if !ok {
			break
		}
		if n == crashBatches/2 && topic.kind.name == "rolling" {
			m.trim(b, p, mine)
		}
	}
	for running > 0 {
		wait()
	}
}

// nextBatch makes a partition's next batch and notes how it is to be stored.
func (m *crashModel) nextBatch(t *testing.T, topic *crashTopic, p *crashPartition, producer int64, rng *rand.Rand) record.Batch {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := int64(0)
	if n := len(p.submitted); n > 0 {
		next = p.submitted[n-1].NextOffset()
	}
	recs := make([]record.Record, 1+rng.IntN(3))
	for i := range recs {
		v := make([]byte, rng.IntN(700))
		if topic.kind.name == "plain" && i == 0 {
			v = make([]byte, 20_000+rng.IntN(20_000)) // the WAL's files are used up and recycled
		}
		for j := range v {
			v[j] = byte(rng.Uint32())
		}
		recs[i] = record.Record{Timestamp: time.Now().UnixMilli(), Key: []byte{byte(rng.IntN(5))}, Value: v}
	}
	spec := record.NewSpec()
	if topic.kind.idempotent {
		spec.ProducerID, spec.ProducerEpoch, spec.BaseSequence = 1000+producer, 0, int32(next)
	}
	b, err := record.Build(spec, recs)
	if err != nil {
		t.Error(err)
	}
	stored := slices.Clone(b)
	stored.SetBaseOffset(next)
	stored.SetLeaderEpoch(0)
	p.submitted = append(p.submitted, stored)
	return b
}

// trim deletes the older half of a partition's records.
func (m *crashModel) trim(b *crashed, p *Partition, mine *crashPartition) {
	to := p.HighWatermark() / 2
	m.mu.Lock()
	mine.trimTo = max(mine.trimTo, to)
	m.mu.Unlock()
	done := make(chan error, 1)
	list := []Deletion{{Partition: p, Offset: to}}
	if !b.DeleteRecords(list, func(err error) { done <- err }) {
		return
	}
	if err := <-done; err == nil && list[0].Err == nil {
		m.mu.Lock()
		mine.trimmed = max(mine.trimmed, to)
		m.mu.Unlock()
	}
}

// check holds a node against what was acknowledged before the crash, and submitted at all.
func (s *crashState) check(b *crashed, m *crashModel) (read int, err error) {
	for i, t := range s.topics {
		img := b.meta.Image().Topic(t.name)
		m.mu.Lock()
		deleting := m.topics[i].deleting
		m.mu.Unlock()
		switch {
		case img == nil && t.created && !deleting:
			return read, fmt.Errorf("topic %s was acknowledged and is gone", t.name)
		case img != nil && t.deleted:
			return read, fmt.Errorf("topic %s is back after its deletion was acknowledged", t.name)
		case img == nil:
			continue
		}
		for j, acked := range s.parts[i] {
			m.mu.Lock()
			all := *m.topics[i].partitions[j]
			m.mu.Unlock()
			p := b.ByName(t.name, int32(j))
			if p == nil {
				return read, fmt.Errorf("%s-%d is not there", t.name, j)
			}
			n, err := acked.check(b, p, &all, t.kind)
			if read += n; err != nil {
				return read, fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	return read, nil
}

// check compares one partition: what is in it is a prefix of what was submitted, and all that was acknowledged is.
func (acked *crashPartition) check(b *crashed, p *Partition, all *crashPartition, kind crashKind) (read int, err error) {
	if kind.cuts {
		return acked.checkCuts(b, p, all)
	}
	start, end := p.LogStart(), p.End()
	want := int64(0)
	if acked.acked > 0 {
		want = all.submitted[acked.acked-1].NextOffset()
	}
	switch {
	case end < want:
		return 0, fmt.Errorf("ends at offset %d, acknowledged were those below %d", end, want)
	case p.HighWatermark() != end:
		return 0, fmt.Errorf("high watermark %d, end %d", p.HighWatermark(), end)
	case start < acked.trimmed || start > all.trimTo && !kind.retention:
		return 0, fmt.Errorf("starts at offset %d, deleted were those below %d, asked for was %d", start, acked.trimmed, all.trimTo)
	case kind.compact:
		return checkCompacted(p, all, end)
	}
	at, _ := slices.BinarySearchFunc(all.submitted, start, func(b record.Batch, off int64) int { return cmp.Compare(b.NextOffset(), off+1) })
	size := 0
	err = p.ReadAll(func(b record.Batch) error {
		if at == len(all.submitted) || string(b) != string(all.submitted[at]) {
			return fmt.Errorf("the batch of offsets %d to %d is not number %d of those that were produced", b.BaseOffset(), b.LastOffset(), at)
		}
		at++
		read++
		size += len(b)
		return nil
	})
	if errors.Is(err, segment.ErrOffsetOutOfRange) && kind.retention && p.LogStart() > start {
		n, err := acked.check(b, p, all, kind) // retention was faster
		return read + n, err
	}
	if err != nil {
		return read, err
	}
	if at > 0 && all.submitted[at-1].NextOffset() != end || at == 0 && end != 0 {
		return read, fmt.Errorf("ends at offset %d after %d batches", end, at)
	}
	if kind.retention && start > 0 && size < 5000 {
		return read, fmt.Errorf("retention of 9000 bytes has left %d", size)
	}
	if kind.idempotent {
		return read, checkRetries(b, p, all, at)
	}
	return read, nil
}

// checkCompacted: of each key the newest record is there, and each record is where it was.
func checkCompacted(p *Partition, all *crashPartition, end int64) (read int, err error) {
	produced, newest := map[int64]string{}, map[string]int64{}
	for _, b := range all.submitted {
		if b.BaseOffset() >= end {
			break
		}
		if err := b.Each(func(r *record.Record) bool {
			produced[r.Offset], newest[string(r.Key)] = string(r.Key)+string(r.Value), r.Offset
			return true
		}); err != nil {
			return 0, err
		}
	}
	last, found := int64(-1), map[string]int64{}
	var bad error
	err = p.ReadAll(func(b record.Batch) error {
		read++
		err := b.Each(func(r *record.Record) bool {
			if r.Offset <= last || produced[r.Offset] != string(r.Key)+string(r.Value) {
				bad = fmt.Errorf("record at offset %d, after %d, is not what was produced", r.Offset, last)
			}
			last = r.Offset
			found[string(r.Key)] = r.Offset
			return bad == nil
		})
		return errors.Join(err, bad)
	})
	if err != nil {
		return read, err
	}
	for k, offset := range newest {
		if found[k] != offset {
			return read, fmt.Errorf("the newest record of key %x is that of offset %d, found is %d", k, offset, found[k])
		}
	}
	return read, nil
}

// checkRetries: a producer that does not know how far it got sends again. What is there keeps its offset, what is not is written once.
func checkRetries(b *crashed, p *Partition, all *crashPartition, at int) error {
	if len(all.submitted) == 0 {
		return nil
	}
	send := func(i int) error {
		again := slices.Clone(all.submitted[i])
		if err := b.Reserve(len(again), time.Minute); err != nil {
			return err
		}
		done := make(chan struct{})
		a := &Append{Batch: again, Done: func(*Append) { close(done) }}
		p.Append(a)
		<-done
		if want := all.submitted[i].BaseOffset(); a.Err != nil || a.BaseOffset != want {
			return fmt.Errorf("batch %d of %d sent again got offset %d, want %d: %v", i, at, a.BaseOffset, want, a.Err)
		}
		return nil
	}
	for i := max(at-1, 0); i < min(at+1, len(all.submitted)); i++ {
		for range 2 {
			if err := send(i); err != nil {
				return err
			}
		}
	}
	if end, want := p.End(), all.submitted[min(at, len(all.submitted)-1)].NextOffset(); end != want {
		return fmt.Errorf("ends at offset %d after batches were sent again, want %d", end, want)
	}
	return nil
}
