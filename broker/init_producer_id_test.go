package broker

import (
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/raftmeta"
)

func TestInitProducerID(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), nil))
	txn := func(s string) *string { return &s }
	for name, tt := range map[string]struct {
		id      int64
		epoch   int16
		txn     *string
		timeout int32
		want    int16
	}{
		"idempotent":             {-1, -1, nil, 60000, 0},
		"again with what it had": {5, 3, nil, 60000, 0},
		"id without epoch":       {5, -1, nil, 60000, kerr.InvalidRequest.Code},
		"epoch without id":       {-1, 3, nil, 60000, kerr.InvalidRequest.Code},
		"empty transactional id": {-1, -1, txn(""), 60000, kerr.InvalidRequest.Code},
		"no transaction timeout": {-1, -1, txn("t"), 0, kerr.InvalidTransactionTimeout.Code},
		"long transaction":       {-1, -1, txn("t"), transactionTimeoutMaxMs + 1, kerr.InvalidTransactionTimeout.Code},
		"transactional":          {-1, -1, txn("t"), 60000, kerr.CoordinatorNotAvailable.Code},
	} {
		t.Run(name, func(t *testing.T) {
			for version := int16(0); version <= 5; version++ {
				req := kmsg.NewPtrInitProducerIDRequest()
				req.Version, req.TransactionalID, req.TransactionTimeoutMillis = version, tt.txn, tt.timeout
				want := tt.want
				if req.ProducerID, req.ProducerEpoch = tt.id, tt.epoch; version < 3 && tt.txn == nil {
					want = 0 // it has no id and epoch
				}
				resp := w.do(req).(*kmsg.InitProducerIDResponse)
				if resp.ErrorCode != want || (resp.ProducerID >= 0) != (want == 0) || (resp.ProducerEpoch == 0) != (want == 0) {
					t.Errorf("v%d: %+v, want error %d", version, resp, want)
				}
			}
		})
	}
}

// TestProducerIDsAreUnique: across connections, blocks and restarts; and a thousand take a block or two, not a thousand changes.
func TestProducerIDsAreUnique(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	seen := map[int64]bool{}
	draw := func(r *Running, connections, each int) {
		var wg sync.WaitGroup
		for range connections {
			w := dial(t, r)
			wg.Go(func() {
				for range each {
					req := kmsg.NewPtrInitProducerIDRequest()
					req.Version = 4
					req.ProducerID, req.ProducerEpoch = -1, -1
					resp := w.do(req).(*kmsg.InitProducerIDResponse)
					mu.Lock()
					if resp.ErrorCode != 0 || seen[resp.ProducerID] {
						t.Errorf("id %d again, or error %d", resp.ProducerID, resp.ErrorCode)
					}
					seen[resp.ProducerID] = true
					mu.Unlock()
				}
			})
		}
		wg.Wait()
	}
	r := startNode(t, dir, nil)
	before := r.b.meta.Image().Version
	draw(r, 10, raftmeta.ProducerIDBlock/10+5)
	if changes := r.b.meta.Image().Version - before; changes != 2 {
		t.Errorf("%d changes of the metadata for %d ids", changes, len(seen))
	}
	stopNode(t, r)
	draw(startNode(t, dir, nil), 2, 5)
}
