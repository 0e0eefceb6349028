package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"weir/internal/config"
	"weir/netproto"
	"weir/raftmeta"
)

// Before a node of a cluster opens its partitions it has to know the cluster's metadata as it is now, not as it was when the node stopped: data of
// topics that the metadata does not have is deleted. So it waits until there is a controller, registers with it, and until
// what it knows includes that registration. While it waits it asks the seeds how they are: that tells the log what
// is missing, finds out that its directory belongs to another cluster, and for a node that is no seed it is how it is added.

// KeyJoin is a private API of the peer listener: a node that starts tells who it is and asks who the controller is. Request, version 0: node id
// (int32), address of its peer listener (string), and 1 if it wants to be added to those who follow the metadata (byte). Response: a status
// (byte), the controller's node id (int32, -1: none is known) and peer address (string).
const keyJoin int16 = 10004

const joinVersion = 0

// Statuses of a join.
const (
	joinOK    = 0 // added, or nothing was asked for
	joinOther = 1 // the controller has to be asked
	joinError = 2 // it could not be added now
	joinTaken = 3 // another broker with this id is alive, at addr
)

const (
	joinRetry    = 250 * time.Millisecond
	joinPatience = 2 * time.Second // for an answer
	joinSayEvery = 5 * time.Second
)

var (
	errForeign = errors.New("the nodes of seed-nodes belong to another cluster, or are not who seed-nodes says")
	errTaken   = errors.New("another broker with this node.id is alive")
)

// takenAfter is how many session timeouts a node waits that finds its id in use: it may be its own former life, whose session has not ended yet.
const takenAfter = 4

type joinRequest struct {
	node int32
	addr string
	add  bool
}

func (j joinRequest) append(b []byte) []byte {
	b = appendInt32(b, j.node)
	b = appendString(b, j.addr)
	if j.add {
		return append(b, 1)
	}
	return append(b, 0)
}

func (j *joinRequest) parse(b []byte) error {
	r := reader{b: b}
	j.node, j.addr, j.add = int32(r.uint32()), r.string(), r.byte() == 1
	if r.short {
		return fmt.Errorf("%w: join of %d bytes", netproto.ErrMalformed, len(b))
	}
	return nil
}

type joinAnswer struct {
	status     byte
	controller int32
	addr       string
}

func (j joinAnswer) append(b []byte) []byte {
	return appendString(appendInt32(append(b, j.status), j.controller), j.addr)
}

func (j *joinAnswer) parse(b []byte) error {
	r := reader{b: b}
	j.status, j.controller, j.addr = r.byte(), int32(r.uint32()), r.string()
	if r.short {
		return fmt.Errorf("%w: answer to a join of %d bytes", netproto.ErrMalformed, len(b))
	}
	return nil
}

// serveJoin answers a node that starts.
func (b *Broker) serveJoin(ctx context.Context, body []byte) []byte {
	var j joinRequest
	answer := joinAnswer{status: joinError, controller: -1}
	if j.parse(body) != nil {
		return answer.append(nil)
	}
	if answer.controller = b.controllerNow(); answer.controller >= 0 {
		answer.addr, _ = b.resolve(answer.controller)
	}
	switch {
	case !j.add:
		answer.status = joinOK
	case !b.meta.Leading():
		answer.status = joinOther
	case b.takenBy(j) != "":
		answer.status, answer.addr = joinTaken, b.takenBy(j)
	default:
		if err := b.addObserver(ctx, j.node, j.addr); err != nil {
			b.log.Warn("a node could not be added", "node", j.node, "addr", j.addr, "error", err)
		} else {
			answer.status = joinOK
		}
	}
	return answer.append(nil)
}

// takenBy is where a broker lives that has the id of one that joins at another address, "" if there is none.
func (b *Broker) takenBy(j joinRequest) string {
	reg := b.meta.Image().Broker(j.node)
	if reg == nil || reg.Fenced || reg.PeerHost == "" {
		return ""
	}
	if addr := net.JoinHostPort(reg.PeerHost, strconv.Itoa(int(reg.PeerPort))); addr != j.addr {
		return addr
	}
	return ""
}

// addObserver lets a node follow the metadata, unless it does already at that address.
func (b *Broker) addObserver(ctx context.Context, node int32, addr string) error {
	q := b.meta.Quorum()
	for _, m := range slices.Concat(q.Voters, q.Observers) {
		if m.ID == node && m.Addr == addr {
			return nil
		}
	}
	b.log.Info("a node joins the cluster", "node", node, "addr", addr)
	return b.meta.AddObserver(ctx, node, addr)
}

// awaitCluster waits until this node knows a controller and the cluster's id.
func (b *Broker) awaitCluster(ctx context.Context) error {
	ready := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { ready <- b.meta.Ready(ctx) }()
	seek := seeker{b: b, add: !slices.ContainsFunc(b.cfg.Seeds(), func(s config.Seed) bool { return s.ID == b.cfg.NodeID })}
	foreign := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := seek.run(ctx); err != nil {
			foreign <- err
		}
	}()
	var err error
	select {
	case err = <-ready:
	case err = <-foreign:
	}
	cancel()
	<-done
	return err
}

// seeker asks the seeds, again and again, until there is a controller.
type seeker struct {
	b     *Broker
	add   bool
	said  time.Time
	taken time.Time // since when the node's id is in use; zero: it is not
}

// run returns nil when ctx ends, or an error if this node cannot become a part of the cluster.
func (s *seeker) run(ctx context.Context) error {
	for {
		if err := s.ask(ctx); err != nil {
			return err
		}
		if !pause(ctx, s.b, joinRetry) {
			return nil
		}
	}
}

// ask asks every seed once, all at the same time.
func (s *seeker) ask(ctx context.Context) error {
	b := s.b
	type outcome struct {
		seed config.Seed
		err  error
	}
	outcomes := make(chan outcome, len(b.cfg.Seeds()))
	asked := 0
	for _, seed := range b.cfg.Seeds() {
		if seed.ID == b.cfg.NodeID {
			continue
		}
		asked++
		go func() { outcomes <- outcome{seed, s.askSeed(ctx, seed)} }()
	}
	var refused, taken error
	refusals := 0
	var missing []string
	for range asked {
		o := <-outcomes
		if errors.Is(o.err, netproto.ErrPeerRefused) {
			refusals++
			refused = fmt.Errorf("seed %d@%s: %w", o.seed.ID, o.seed.Addr, o.err)
		}
		if errors.Is(o.err, errTaken) {
			taken = o.err
		}
		if o.err != nil {
			missing = append(missing, fmt.Sprintf("%d@%s: %v", o.seed.ID, o.seed.Addr, o.err))
		}
	}
	// One that refuses may be the wrong one itself; most of them are not.
	if 2*refusals > asked {
		return fmt.Errorf("%w: %w", errForeign, refused)
	}
	if err := s.noteTaken(taken); err != nil {
		return err
	}
	if now := b.clk.Now(); ctx.Err() == nil && now.Sub(s.said) >= joinSayEvery {
		if !s.said.IsZero() {
			b.log.Warn("waiting for a controller", "seeds", asked+1, "do_not_answer", missing)
		}
		s.said = now
	}
	return nil
}

// noteTaken returns the error once the node's id has been in use for too long.
func (s *seeker) noteTaken(err error) error {
	now := s.b.clk.Now()
	switch {
	case err == nil:
		s.taken = time.Time{}
	case s.taken.IsZero():
		s.taken = now
	case now.Sub(s.taken) > takenAfter*config.Millis(s.b.cfg.BrokerSessionTimeoutMs):
		return err
	}
	return nil
}

// askSeed asks one seed, and the controller that it names if this node wants to be added.
func (s *seeker) askSeed(ctx context.Context, seed config.Seed) error {
	answer, err := s.call(ctx, seed.ID, seed.Addr)
	if err != nil || answer.status != joinOther || answer.controller < 0 || answer.addr == "" {
		return err
	}
	_, err = s.call(ctx, answer.controller, answer.addr)
	return err
}

func (s *seeker) call(ctx context.Context, node int32, addr string) (answer joinAnswer, err error) {
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	req := joinRequest{node: s.b.cfg.NodeID, addr: s.b.peerAddr, add: s.add}
	r, err := s.b.peers.CallAddr(ctx, node, addr, netproto.ClassControl, keyJoin, joinVersion, req.append(nil))
	if err != nil {
		return answer, err
	}
	defer r.Release()
	if err := answer.parse(r.Body); err != nil {
		return answer, err
	}
	if answer.status == joinTaken {
		return answer, fmt.Errorf("%w: node %d at %s", errTaken, s.b.cfg.NodeID, answer.addr)
	}
	return answer, nil
}

// pause waits for d; false: ctx ended before.
func pause(ctx context.Context, b *Broker, d time.Duration) bool {
	done := make(chan struct{})
	t := b.clk.AfterFunc(d, func() { close(done) })
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// resolve finds the address of a node's peer listener: as it registered, else as seed-nodes says.
func (b *Broker) resolve(node int32) (addr string, ok bool) {
	if m := b.metaRef.Load(); m != nil {
		if reg := m.Image().Broker(node); reg != nil && reg.PeerHost != "" {
			return net.JoinHostPort(reg.PeerHost, strconv.Itoa(int(reg.PeerPort))), true
		}
	}
	for _, s := range b.cfg.Seeds() {
		if s.ID == node {
			return s.Addr, true
		}
	}
	return "", false
}

// voters are the seeds as the metadata's first voters.
func voters(cfg *config.Broker) []raftmeta.Voter {
	var list []raftmeta.Voter
	for _, s := range cfg.Seeds() {
		list = append(list, raftmeta.Voter{ID: s.ID, Addr: s.Addr})
	}
	return list
}
