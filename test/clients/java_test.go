package clients

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"

	"weir/test/internal/records"
)

// java is Apache Kafka's own client, behind java/src/main/java/weir/test/Bridge.java.
type java struct{ bin, dir string }

func (java) name() string         { return "java" }
func (java) setsTimestamps() bool { return true }

func (j java) command(ctx context.Context, args ...string) *exec.Cmd {
	classes := filepath.Join(j.dir, "target", "classes") + ":" + filepath.Join(j.dir, "target", "lib", "*")
	fixed := []string{"-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", classes, "weir.test.Bridge"}
	return exec.CommandContext(ctx, j.bin, append(fixed, args...)...)
}

func (j java) produce(ctx context.Context, addr, topic, codec string, source *records.Source, perPartition int64) error {
	cmd := j.command(ctx, "produce", "topic="+topic, "bootstrap.servers="+addr, "compression.type="+codec, "linger.ms=5",
		"batch.size=65536")
	return pipe(cmd, func(in *bufio.Writer) error {
		for i := range perPartition {
			for p := range int32(partitions) {
				if err := writeBridge(in, source.At(p, i)); err != nil {
					return err
				}
			}
		}
		return nil
	}, nil)
}

func (j java) consume(ctx context.Context, addr, topic, group string, count int64, sink func(*records.Record) error) error {
	args := []string{"consume", "topic=" + topic, fmt.Sprintf("count=%d", count), "bootstrap.servers=" + addr,
		"auto.offset.reset=earliest", "enable.auto.commit=false"}
	if group != "" {
		args = append(args, "group=yes", "group.id="+group, "group.protocol=classic")
	}
	return pipe(j.command(ctx, args...), nil, func(out *bufio.Reader) error {
		b := bridge{in: out}
		for {
			if _, err := out.Peek(1); errors.Is(err, io.EOF) {
				return nil
			}
			if err := b.record(); err != nil {
				return err
			}
			if err := sink(&b.out); err != nil {
				return err
			}
		}
	})
}

func writeBridge(w *bufio.Writer, r *records.Record) error {
	var fixed [20]byte
	binary.BigEndian.PutUint32(fixed[:], uint32(r.Partition))
	binary.BigEndian.PutUint64(fixed[4:], uint64(r.Offset))
	binary.BigEndian.PutUint64(fixed[12:], uint64(r.Timestamp))
	_, _ = w.Write(fixed[:])
	writeBytes(w, r.Key)
	writeBytes(w, r.Value)
	binary.BigEndian.PutUint32(fixed[:], uint32(len(r.Headers)))
	_, err := w.Write(fixed[:4])
	for _, h := range r.Headers {
		writeBytes(w, []byte(h.Key))
		writeBytes(w, h.Value)
	}
	return err
}

func writeBytes(w *bufio.Writer, b []byte) {
	n := int32(len(b))
	if b == nil {
		n = -1
	}
	var size [4]byte
	binary.BigEndian.PutUint32(size[:], uint32(n))
	_, _ = w.Write(size[:])
	_, _ = w.Write(b)
}

// bridge reads records as Bridge.java writes them. Slices live until the next record.
type bridge struct {
	in  *bufio.Reader
	out records.Record
	buf []byte
	err error
}

func (b *bridge) record() error {
	b.buf = b.buf[:0]
	r := &b.out
	r.Partition, r.Offset, r.Timestamp = int32(b.u32()), int64(b.u64()), int64(b.u64())
	r.Key, r.Value = b.bytes(), b.bytes()
	r.Headers = r.Headers[:0]
	for n := b.u32(); n > 0 && b.err == nil; n-- {
		r.Headers = append(r.Headers, records.Header{Key: string(b.bytes()), Value: b.bytes()})
	}
	if b.err != nil {
		return fmt.Errorf("read a record from the bridge: %w", b.err)
	}
	return nil
}

func (b *bridge) take(n int) []byte {
	if b.err != nil {
		return make([]byte, n)
	}
	from := len(b.buf)
	if cap(b.buf)-from < n {
		b.buf, from = make([]byte, 0, max(1<<16, 2*n)), 0 // slices handed out keep the old one
	}
	b.buf = b.buf[:from+n]
	_, b.err = io.ReadFull(b.in, b.buf[from:])
	return b.buf[from : from+n : from+n]
}

func (b *bridge) u32() uint32 { return binary.BigEndian.Uint32(b.take(4)) }
func (b *bridge) u64() uint64 { return binary.BigEndian.Uint64(b.take(8)) }

func (b *bridge) bytes() []byte {
	n := int32(b.u32())
	if n < 0 || b.err != nil {
		return nil
	}
	return b.take(int(n))
}
