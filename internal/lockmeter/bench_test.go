package lockmeter

//lint:file-ignore SA2001 that a lock was held, and nothing else, is what is tested

import (
	"sync"
	"testing"
)

// What a free lock costs, taken and given back: sync's, one that is not measured, one of a sampled class, one of which every hold is measured.

func BenchmarkLockSync(b *testing.B) {
	var m sync.Mutex
	b.ReportAllocs()
	for b.Loop() {
		m.Lock()
		m.Unlock()
	}
}

func benchmarkLock(b *testing.B, meter *Meter, l Lock) {
	var m Mutex
	m.MeterBy(meter, l)
	b.ReportAllocs()
	for b.Loop() {
		m.Lock()
		m.Unlock()
	}
}

func BenchmarkLockUnmeasured(b *testing.B) { benchmarkLock(b, nil, Partition) }
func BenchmarkLockSampled(b *testing.B)    { benchmarkLock(b, New(Options{}), Partition) }
func BenchmarkLockAll(b *testing.B)        { benchmarkLock(b, New(Options{}), Metadata) }

func BenchmarkContendedSync(b *testing.B) {
	var m sync.Mutex
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Lock()
			m.Unlock()
		}
	})
}

func BenchmarkContendedSampled(b *testing.B) {
	var m Mutex
	m.MeterBy(New(Options{}), Partition)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Lock()
			m.Unlock()
		}
	})
}
