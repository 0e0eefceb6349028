package broker

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/raftmeta"
)

// DeleteTopics (key 20) v1-6. v3 has an error of its own for deletion being disabled, v5 messages, v6 topic ids (KIP-516). All topics of
// a request are one change of the metadata.

// goner is a topic that was named by a request, by name or by id, and what is said about it.
type goner struct {
	name *string
	id   [16]byte
	err  error
}

func (a *adminCall) deleteTopics(req kmsg.Request) kmsg.Response {
	rows := a.deletions(req.(*kmsg.DeleteTopicsRequest))
	var deleted []string
	for i := range rows {
		if rows[i].err == nil {
			deleted = append(deleted, *rows[i].name)
		}
	}
	a.logTopics("topics deleted", deleted)
	return goners(rows)
}

// goners is the answer.
func goners(rows []goner) *kmsg.DeleteTopicsResponse {
	resp := kmsg.NewPtrDeleteTopicsResponse()
	for i := range rows {
		g := &rows[i]
		row := kmsg.NewDeleteTopicsResponseTopic()
		row.Topic, row.TopicID = g.name, g.id
		row.ErrorCode, row.ErrorMessage = metaCode(g.err), message(g.err)
		resp.Topics = append(resp.Topics, row)
	}
	return resp
}

// deleteTopicsFailed is the answer with one error for all topics.
func deleteTopicsFailed(req kmsg.Request, code int16, message *string) kmsg.Response {
	resp := goners(namedTopics(req.(*kmsg.DeleteTopicsRequest)))
	for i := range resp.Topics {
		resp.Topics[i].ErrorCode, resp.Topics[i].ErrorMessage = code, message
	}
	return resp
}

// deletions deletes what can be deleted and returns a row for everything that was named.
func (a *adminCall) deletions(r *kmsg.DeleteTopicsRequest) (rows []goner) {
	named := namedTopics(r)
	if !a.b.cfg.DeleteTopics {
		disabled := refuse(kerr.TopicDeletionDisabled, "Topic deletion is disabled.")
		if r.Version < 3 {
			disabled = refuse(kerr.InvalidRequest, "Topic deletion is disabled.")
		}
		for i := range named {
			named[i].err = disabled
		}
		return named
	}
	rows, valid := withoutDuplicates(named)
	rows, found := resolve(a.b.meta.Image(), valid, rows)
	var cmds []raftmeta.DeleteTopic
	for i := range found {
		cmds = append(cmds, raftmeta.DeleteTopic{ID: found[i].id})
	}
	results, err := a.b.ctl.DeleteTopics(a.ctx, cmds)
	err = a.settled(err)
	for i := range found {
		if found[i].err = err; err == nil {
			found[i].err = results[i].Err
		}
		if errors.Is(found[i].err, raftmeta.ErrUnknownTopic) { // somebody else was faster
			found[i].err = refuse(kerr.UnknownTopicID, "%s", kerr.UnknownTopicID.Description)
		}
	}
	return append(rows, found...)
}

// namedTopics lists what a request names, in its order.
func namedTopics(r *kmsg.DeleteTopicsRequest) []goner {
	var named []goner
	for i := range r.TopicNames {
		named = append(named, goner{name: &r.TopicNames[i]})
	}
	for i := range r.Topics {
		named = append(named, goner{name: r.Topics[i].Topic, id: r.Topics[i].TopicID})
	}
	return named
}

// withoutDuplicates takes out what is named in no way, in two ways, or twice: rows with an error. What is named twice gets
// one row and is not deleted.
func withoutDuplicates(named []goner) (rows, valid []goner) {
	type key struct {
		name string
		id   [16]byte
	}
	count := map[key]int{}
	keyOf := func(g *goner) key {
		if g.name != nil {
			return key{name: *g.name}
		}
		return key{id: g.id}
	}
	for i := range named {
		g := &named[i]
		switch none := g.id == [16]byte{}; {
		case g.name == nil && none:
			g.err = refuse(kerr.InvalidRequest, "Neither topic name nor id were specified.")
			rows = append(rows, *g)
		case g.name != nil && !none:
			g.err = refuse(kerr.InvalidRequest, "You may not specify both topic name and topic id.")
			rows = append(rows, *g)
		default:
			count[keyOf(g)]++
		}
	}
	for i := range named {
		g := named[i]
		if g.err != nil {
			continue
		}
		switch k := keyOf(&g); count[k] {
		case 1:
			valid = append(valid, g)
		case 0: // has its row
		default:
			count[k] = 0
			g.err = refuse(kerr.InvalidRequest, "Duplicate topic id.")
			if g.name != nil {
				g.err = refuse(kerr.InvalidRequest, "Duplicate topic name.")
			}
			rows = append(rows, g)
		}
	}
	return rows, valid
}

// resolve finds the topics and appends a row for each that does not exist, or that was named by name and by id.
func resolve(img *raftmeta.Image, named, rows []goner) (_, found []goner) {
	byID := map[[16]byte]int{}
	for i := range named {
		if g := named[i]; g.name == nil {
			if t := img.TopicByID(g.id); t != nil {
				byID[t.ID]++
			}
		} else if t := img.Topic(*g.name); t != nil {
			byID[t.ID]++
		}
	}
	for _, g := range named {
		t := img.TopicByID(g.id)
		switch {
		case g.name != nil:
			if t = img.Topic(*g.name); t == nil {
				g.err = refuse(kerr.UnknownTopicOrPartition, "%s", kerr.UnknownTopicOrPartition.Description)
			}
		case t == nil:
			g.err = refuse(kerr.UnknownTopicID, "%s", kerr.UnknownTopicID.Description)
		}
		if g.err == nil && byID[t.ID] > 1 {
			if g.name == nil {
				continue // the row of its name says it
			}
			g.id = t.ID
			g.err = refuse(kerr.InvalidRequest, "The provided topic name maps to an ID that was already supplied.")
		}
		if g.err != nil {
			rows = append(rows, g)
			continue
		}
		found = append(found, goner{name: &t.Name, id: t.ID})
	}
	return rows, found
}
