package faultdisk

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// callWait bounds a call to the process that serves the disk, which answers from memory.
const callWait = 20 * time.Second

// request is one line to the control socket; the answer is one line too, then the connection ends.
type request struct {
	Op    string // stall, resume, fail, lie, cut, stats, await
	Kinds Kind
	For   time.Duration
	Errno syscall.Errno
	Lie   bool
	Seed  uint64
	Keep  float64
}

type answer struct {
	Error string
	Met   bool // await: something is held back
	Loss  loss // cut
	Power int  // cut: the number of the new file
	Stats Stats
}

// call asks the process behind a control socket.
func call(socket string, r request) (answer, error) {
	conn, err := net.DialTimeout("unix", socket, callWait)
	if err != nil {
		return answer{}, fmt.Errorf("fault disk: %s: %w", r.Op, err)
	}
	defer conn.Close()
	wait := callWait
	if r.Op == "await" {
		wait += r.For
	}
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return answer{}, fmt.Errorf("fault disk: %s: %w", r.Op, err)
	}
	var a answer
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return answer{}, fmt.Errorf("fault disk: %s: %w", r.Op, err)
	}
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		return answer{}, fmt.Errorf("fault disk: %s: %w", r.Op, err)
	}
	if a.Error != "" {
		return answer{}, errors.New("fault disk: " + r.Op + ": " + a.Error)
	}
	return a, nil
}

// serve answers calls until the listener is closed.
func (d *disk) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			var r request
			if err := json.NewDecoder(conn).Decode(&r); err != nil {
				return
			}
			_ = json.NewEncoder(conn).Encode(d.do(r)) // a caller that has gone needs no answer
		}()
	}
}

func (d *disk) do(r request) answer {
	g := d.gate.Load()
	switch r.Op {
	case "stall":
		g.stall(r.Kinds, r.For)
	case "resume":
		g.stall(0, 0)
	case "fail":
		g.fail(r.Kinds, r.Errno)
	case "lie":
		d.image.lieAboutFlush(r.Lie)
	case "await":
		return answer{Met: g.awaitHeld(r.Kinds, r.For)}
	case "cut":
		return d.cut(r)
	case "stats":
		return answer{Stats: d.stats()}
	default:
		return answer{Error: fmt.Sprintf("unknown operation %q", r.Op)}
	}
	return answer{}
}
