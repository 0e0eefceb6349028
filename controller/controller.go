package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"weir/controller/machine"
	"weir/internal/clock"
	"weir/internal/config"
	"weir/internal/lockmeter"
	"weir/raftmeta"
)

// Meta is what the controller needs of the metadata; *raftmeta.Meta is one.
type Meta interface {
	Image() *raftmeta.Image
	Propose(ctx context.Context, cmds ...raftmeta.Command) ([]raftmeta.Result, error)
	Subscribe(fn func(*raftmeta.Image, *raftmeta.Delta)) (cancel func())
}

// Options configure New. Meta, NodeID and Config must be set.
type Options struct {
	Meta    Meta
	NodeID  int32
	Config  *config.Broker
	Clock   clock.Clock
	Logger  *slog.Logger
	Metrics *Metrics
	Locks   *lockmeter.Meter // measures the locks; may be nil
}

// Controller is this node's part in deciding for the cluster. All methods may be called from any goroutine; on a node that is not
// the controller they return ErrNotController. Whoever asks waits in a bounded queue (ErrBusy when it is full) until the context ends or
// request.timeout.ms is over; what was asked may be done all the same. Errors of raftmeta.Propose are passed on: after
// ErrTimeout and ErrLeadershipLost it is unknown whether the change was made.
type Controller struct {
	o       Options
	timeout time.Duration
	mail    *mailbox
	unwatch func()

	ctx  context.Context // ends with Close; of proposals
	stop context.CancelFunc
	done chan struct{} // closed when run has ended

	// Owned by run.
	m       *machine.Machine
	term    uint64
	waiting []machine.Request
	flight  bool
	landed  chan landing
	timer   clock.Timer
	armed   time.Time // when the timer fires, zero: it does not
}

// New makes a controller that is not in office. It must be closed.
func New(o Options) *Controller {
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	c := &Controller{
		o: o, timeout: config.Millis(o.Config.RequestTimeoutMs), mail: newMailbox(), done: make(chan struct{}),
		m: machine.New(machineConfig(&o)), landed: make(chan landing, 1),
	}
	c.mail.mu.MeterBy(o.Locks, lockmeter.Controller)
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.unwatch = o.Meta.Subscribe(c.mail.changed)
	go c.run()
	return c
}

func machineConfig(o *Options) machine.Config {
	mc := machine.Config{
		NodeID:         o.NodeID,
		SessionTimeout: config.Millis(o.Config.BrokerSessionTimeoutMs),
		BalancePercent: o.Config.LeaderImbalancePerBrokerPercentage,
		Unclean: func(overrides map[string]string) bool {
			t, err := o.Config.ResolveTopic(overrides)
			return err == nil && t.UncleanLeaderElection
		},
	}
	if o.Config.AutoLeaderRebalanceEnable {
		mc.BalanceInterval = time.Duration(o.Config.LeaderImbalanceCheckIntervalSeconds) * time.Second
	}
	return mc
}

// Close ends it. Whoever waits gets ErrClosed. A change that is under way is not waited for longer than Meta's Propose takes to notice
// that its context has ended.
func (c *Controller) Close() {
	if !c.mail.close() {
		<-c.done
		return
	}
	c.unwatch()
	c.stop()
	<-c.done
}

// Office tells the controller that this node leads the metadata and has applied all that was committed before, or that it does not lead any
// more. It does not block.
func (c *Controller) Office(term uint64, leading bool) { c.mail.office(term, leading) }

// PeerGone tells that no process listens at a node: its broker is fenced at once, unless it is heard of again. A node that is not the
// controller remembers it for a while, in case it becomes that. It does not block.
func (c *Controller) PeerGone(node int32) { c.mail.gone(node, c.o.Clock.Now()) }

// ask waits for the answer to an operation.
func ask[T any](ctx context.Context, c *Controller, op machine.Op) (answer T, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("%w: controller did not answer within %s", context.DeadlineExceeded, c.timeout))
	defer cancel()
	r := &request{ctx: ctx, answer: make(chan machine.Answer, 1)}
	if err := c.mail.put(r, op); err != nil {
		if errors.Is(err, ErrBusy) {
			c.o.Metrics.refused.Inc()
		}
		return answer, err
	}
	select {
	case a := <-r.answer:
		if a.Err != nil {
			return answer, a.Err
		}
		if a.Value != nil {
			answer = a.Value.(T)
		}
		return answer, nil
	case <-ctx.Done():
		return answer, fmt.Errorf("controller: %w", context.Cause(ctx))
	}
}

// Register makes a broker known and returns its epoch.
func (c *Controller) Register(ctx context.Context, r Registration) (epoch int64, err error) {
	return ask[int64](ctx, c, &r)
}

// Heartbeat keeps a broker's session and tells it its state.
func (c *Controller) Heartbeat(ctx context.Context, h Heartbeat) (Answer, error) {
	return ask[Answer](ctx, c, &h)
}

// AlterISR changes in-sync replicas as their leader asks. The error is for the whole.
func (c *Controller) AlterISR(ctx context.Context, broker int32, brokerEpoch int64, changes []ISRChange) ([]ISRResult, error) {
	return ask[[]ISRResult](ctx, c, &machine.AlterISR{Broker: broker, BrokerEpoch: brokerEpoch, Changes: changes})
}

// CreateTopics makes topics in one change of the metadata. It returns when this node has applied it.
func (c *Controller) CreateTopics(ctx context.Context, topics []raftmeta.CreateTopic) ([]raftmeta.Result, error) {
	return ask[[]raftmeta.Result](ctx, c, &machine.CreateTopics{Topics: topics})
}

// AddPartitions grows topics in one change of the metadata.
func (c *Controller) AddPartitions(ctx context.Context, topics []raftmeta.AddPartitions) ([]raftmeta.Result, error) {
	return ask[[]raftmeta.Result](ctx, c, &machine.AddPartitions{Topics: topics})
}

// DeleteTopics deletes topics in one change of the metadata.
func (c *Controller) DeleteTopics(ctx context.Context, topics []raftmeta.DeleteTopic) ([]raftmeta.Result, error) {
	return ask[[]raftmeta.Result](ctx, c, &machine.DeleteTopics{Topics: topics})
}

// Reassign moves partitions to other brokers, or cancels moves. It returns an error or nil for each; if the request failed as a whole, they
// are all that error.
func (c *Controller) Reassign(ctx context.Context, parts []Reassignment) []error {
	errs, err := ask[[]error](ctx, c, &machine.Reassign{Partitions: parts})
	if err != nil {
		errs = make([]error, len(parts))
		for i := range errs {
			errs[i] = err
		}
	}
	return errs
}

// Reassignments lists what is under way, as this node knows it, by topic and partition.
func (c *Controller) Reassignments() []Reassigning { return machine.Reassignments(c.o.Meta.Image()) }

// ElectLeaders elects preferred leaders, or leaders of partitions that have none. nil parts: all, and the answer leaves out those
// that need no election.
func (c *Controller) ElectLeaders(ctx context.Context, unclean bool, parts []TopicPartition) ([]ElectResult, error) {
	return ask[[]ElectResult](ctx, c, &machine.ElectLeaders{Unclean: unclean, Partitions: parts})
}

// Unregister forgets a broker that holds no replica.
func (c *Controller) Unregister(ctx context.Context, broker int32) error {
	_, err := ask[any](ctx, c, &machine.Unregister{Broker: broker})
	return err
}

// Decommission has a broker leave, or stay after all. Decommissions tells when nothing is Left; then Unregister forgets the broker.
func (c *Controller) Decommission(ctx context.Context, d Decommission) (DecommissionProgress, error) {
	return ask[DecommissionProgress](ctx, c, &d)
}

// Decommissions is how far the brokers are that leave, as this node knows it, by id.
func (c *Controller) Decommissions() []DecommissionProgress {
	return machine.Decommissions(c.o.Meta.Image())
}
