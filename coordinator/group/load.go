package group

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/record"
)

var (
	// ErrOwned: the partition is loaded, or being loaded, in this epoch already.
	ErrOwned = errors.New("the partition's groups are loaded already")
	// ErrOvertaken: this broker has learned of a later leader epoch of the partition meanwhile.
	ErrOvertaken = errors.New("a later leader of the partition is known")
)

// Claim is a partition whose groups this broker is to coordinate, and which must be loaded for that.
type Claim struct {
	s     *shard
	id    uint64
	epoch int32
}

// Claim is called when this broker becomes the leader of a partition of __consumer_offsets, with the epoch. It does not block: requests for the
// partition's groups are told CoordinatorLoadInProgress until Claim.Load has ended. What was there from an older epoch is let go
// of, as another broker may have written since. Errors: ErrOwned, ErrOvertaken.
func (c *Coordinator) Claim(partition, epoch int32) (*Claim, error) {
	if partition < 0 || int(partition) >= len(c.shards) {
		return nil, fmt.Errorf("load groups: partition %d, there are %d", partition, len(c.shards))
	}
	s := c.shards[partition]
	claim := &Claim{s: s, epoch: epoch}
	var err error
	s.transition(func(fx *effects) {
		switch {
		case epoch < s.mu.least:
			err = ErrOvertaken
		case s.mu.state != notOwned && s.mu.epoch == epoch:
			err = ErrOwned
		default:
			gone := s.mu.gone // while the load before failed
			again := s.mu.failed && s.mu.epoch == epoch
			s.letGoLocked(fx, NotCoordinator)
			if again {
				s.mu.gone = gone
			}
			s.mu.state, s.mu.epoch, s.mu.least = loading, epoch, epoch
			claim.id = s.mu.load
		}
	})
	if err != nil {
		return nil, fmt.Errorf("load groups of partition %d in epoch %d: %w", partition, epoch, err)
	}
	return claim, nil
}

// Load rebuilds the groups from the log. If it fails the partition is not owned, and may be claimed again. ErrOvertaken: the partition was
// let go of, or claimed in a later epoch, meanwhile.
func (l *Claim) Load() error {
	s, c := l.s, l.s.c
	start := c.clk.Now()
	ld := newLoader(&c.conf, start.UnixMilli())
	err := c.storage.Load(s.partition, l.epoch, ld.replay)
	count := len(ld.groups) // the map is the shard's once it is installed
	s.transition(func(fx *effects) {
		switch {
		case s.mu.load != l.id:
			ld.discard(fx)
			err = errors.Join(ErrOvertaken, err)
		case err != nil || c.closed.Load():
			s.mu.state, s.mu.failed = notOwned, true
			ld.discard(fx)
		default:
			s.mu.state = active
			s.mu.groups = ld.groups
			for _, g := range ld.groups {
				g.resume(fx)
			}
			for _, t := range s.mu.gone {
				s.topicDeletedLocked(fx, t.name, t.id)
			}
			s.mu.gone = nil
		}
	})
	if err != nil {
		return fmt.Errorf("load groups of partition %d in epoch %d: %w", s.partition, l.epoch, err)
	}
	for version, n := range ld.skipped {
		c.conf.log.Warn("records of an unknown kind were skipped", "partition", s.partition, "key_version", version, "records", n)
	}
	if count > 0 {
		c.conf.log.Info("groups loaded", "partition", s.partition, "epoch", l.epoch, "groups", count, "records", ld.records,
			"took", c.clk.Now().Sub(start))
	}
	return nil
}

// Load claims a partition and loads it.
func (c *Coordinator) Load(partition, epoch int32) error {
	claim, err := c.Claim(partition, epoch)
	if err != nil {
		return err
	}
	return claim.Load()
}

// Unload lets go of a partition that this broker does not lead any more as of this epoch: parked requests are told NotCoordinator, timers end, and
// claims up to the epoch come too late.
func (c *Coordinator) Unload(partition, epoch int32) {
	if partition < 0 || int(partition) >= len(c.shards) {
		return
	}
	s := c.shards[partition]
	s.transition(func(fx *effects) {
		if epoch < s.mu.least {
			return // a later claim is in force
		}
		s.mu.least = epoch + 1
		s.letGoLocked(fx, NotCoordinator)
	})
}

// Forget is Unload for a partition that is gone: should there be one of this number again, its epochs begin anew.
func (c *Coordinator) Forget(partition int32) {
	if partition < 0 || int(partition) >= len(c.shards) {
		return
	}
	s := c.shards[partition]
	s.transition(func(fx *effects) {
		s.mu.least = math.MinInt32
		s.letGoLocked(fx, NotCoordinator)
	})
}

// loader rebuilds groups from records. It is on its own: nobody sees the groups yet.
type loader struct {
	conf    *settings
	nowMs   int64
	groups  map[string]*group
	records int
	skipped map[int16]int
}

func newLoader(conf *settings, nowMs int64) *loader {
	return &loader{conf: conf, nowMs: nowMs, groups: map[string]*group{}, skipped: map[int16]int{}}
}

func (l *loader) replay(r *record.Record) error {
	l.records++
	version, err := keyVersion(r.Key)
	if err == nil {
		switch {
		case version >= 0 && version <= offsetKeyVersionMax:
			err = l.replayOffset(r)
		case version == groupKeyVersion:
			err = l.replayGroup(r)
		default:
			l.skipped[version]++
		}
	}
	if err != nil {
		return fmt.Errorf("record at offset %d: %w", r.Offset, err)
	}
	return nil
}

func (l *loader) replayOffset(r *record.Record) error {
	id, topic, partition, err := decodeOffsetKey(r.Key)
	if err != nil {
		return err
	}
	tp := topicPartition{topic, partition}
	if r.Value == nil {
		if g := l.groups[id]; g != nil {
			g.removeOffset(tp)
		}
		return nil
	}
	o, err := decodeOffsetValue(r.Value)
	if err != nil {
		return err
	}
	l.group(id).setOffset(tp, o)
	return nil
}

// group finds a group, or makes one without members.
func (l *loader) group(id string) *group {
	g := l.groups[id]
	if g == nil {
		g = newGroup(id, l.conf, l.nowMs)
		g.logged = true
		l.groups[id] = g
	}
	return g
}

func (l *loader) replayGroup(r *record.Record) error {
	id, err := decodeGroupKey(r.Key)
	if err != nil {
		return err
	}
	var fx effects // nothing is armed and nobody is parked: what a loaded group wants is thrown away
	if r.Value == nil {
		if g := l.groups[id]; g != nil {
			g.die(&fx, NotCoordinator)
			delete(l.groups, id)
		}
		return nil
	}
	v, err := decodeGroupValue(r.Value)
	if err != nil {
		return err
	}
	fresh := newGroup(id, l.conf, l.nowMs)
	fresh.logged = true
	if err := fresh.restore(&fx, v); err != nil {
		fresh.die(&fx, NotCoordinator)
		return fmt.Errorf("group %q: %w", id, err)
	}
	if old := l.groups[id]; old != nil {
		fresh.offsets, old.offsets = old.offsets, map[string]map[int32]offset{}
		old.die(&fx, NotCoordinator)
	}
	l.groups[id] = fresh
	return nil
}

func (l *loader) discard(fx *effects) {
	for _, g := range l.groups {
		g.die(fx, NotCoordinator)
	}
}

// restore sets the group up as a record has it: empty, or stable with what the members are known for.
func (g *group) restore(fx *effects, v *kmsg.GroupMetadataValue) error {
	if v.Protocol == nil && len(v.Members) > 0 {
		return fmt.Errorf("%w: %d members and no protocol", ErrCorrupt, len(v.Members))
	}
	g.generation, g.protocol, g.sinceMs = v.Generation, v.Protocol, v.CurrentStateTimestamp
	if v.Version < 2 {
		g.sinceMs = -1
	}
	for i := range v.Members {
		vm := &v.Members[i]
		if g.byID[vm.MemberID] != nil || vm.InstanceID != nil && g.static[*vm.InstanceID] != nil {
			return fmt.Errorf("%w: member %q comes twice", ErrCorrupt, vm.MemberID)
		}
		m := &member{
			id: vm.MemberID, instance: vm.InstanceID, clientID: vm.ClientID, clientHost: vm.ClientHost,
			protocols:        []Protocol{{Name: *v.Protocol, Metadata: append([]byte{}, vm.Subscription...)}},
			sessionTimeout:   time.Duration(vm.SessionTimeoutMillis) * time.Millisecond,
			rebalanceTimeout: time.Duration(vm.RebalanceTimeoutMillis) * time.Millisecond,
			assignment:       append([]byte{}, vm.Assignment...),
		}
		if vm.RebalanceTimeoutMillis == -1 || v.Version < 1 {
			m.rebalanceTimeout = m.sessionTimeout
		}
		g.add(fx, m)
	}
	g.protocolType = v.ProtocolType
	g.leader = ""
	if v.Leader != nil && g.byID[*v.Leader] != nil {
		g.leader = *v.Leader
	} else if len(g.members) > 0 {
		g.leader = g.members[0].id
	}
	if len(g.members) > 0 {
		g.conf.metrics.state(g.state, -1)
		g.conf.metrics.state(Stable, +1)
		g.state = Stable
	}
	g.computeSubscribed()
	return nil
}

// resume sets a loaded group going: sessions begin anew, since heartbeats went nowhere meanwhile.
func (g *group) resume(fx *effects) {
	for _, m := range g.members {
		g.touch(fx, m)
	}
	if len(g.members) > g.conf.groupSizeMax {
		g.prepareRebalance(fx, "the loaded group has more members than allowed", "max", g.conf.groupSizeMax)
	}
	g.rescanExpiry(fx)
}
