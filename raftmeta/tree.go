package raftmeta

import (
	"iter"

	iradix "github.com/hashicorp/go-immutable-radix"
)

// tree is a persistent sorted map from string to V: a change copies the path to it, not the map. The zero tree is empty.
type tree[V any] struct{ t *iradix.Tree }

func (t tree[V]) get(key string) V {
	var zero V
	if t.t == nil {
		return zero
	}
	v, ok := t.t.Get([]byte(key))
	if !ok {
		return zero
	}
	return v.(V)
}

func (t tree[V]) len() int {
	if t.t == nil {
		return 0
	}
	return t.t.Len()
}

func (t tree[V]) all() iter.Seq[V] {
	return func(yield func(V) bool) {
		if t.t == nil {
			return
		}
		t.t.Root().Walk(func(_ []byte, v any) bool { return !yield(v.(V)) })
	}
}

func (t tree[V]) txn() *treeTxn[V] {
	if t.t == nil {
		return &treeTxn[V]{iradix.New().Txn()}
	}
	return &treeTxn[V]{t.t.Txn()}
}

// treeTxn gathers changes: nodes it has copied once are changed in place until commit.
type treeTxn[V any] struct{ t *iradix.Txn }

func (t *treeTxn[V]) get(key string) V {
	v, ok := t.t.Get([]byte(key))
	if !ok {
		var zero V
		return zero
	}
	return v.(V)
}

func (t *treeTxn[V]) set(key string, v V) { t.t.Insert([]byte(key), v) }

func (t *treeTxn[V]) delete(key string) { t.t.Delete([]byte(key)) }

func (t *treeTxn[V]) commit() tree[V] { return tree[V]{t.t.Commit()} }

// all yields what the transaction sees. The tree must not be changed meanwhile.
func (t *treeTxn[V]) all() iter.Seq[V] {
	return func(yield func(V) bool) {
		t.t.Root().Walk(func(_ []byte, v any) bool { return !yield(v.(V)) })
	}
}
