package clients

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"

	"weir/test/internal/records"
)

// kcat is the command line client over librdkafka.
type kcat struct{ bin string }

func (kcat) name() string         { return "kcat" }
func (kcat) setsTimestamps() bool { return false }

// produce runs kcat once per partition: it sends its input to one partition or hashes keys.
func (k kcat) produce(ctx context.Context, addr, topic, codec string, source *records.Source, perPartition int64) error {
	for p := range int32(partitions) {
		args := []string{"-P", "-b", addr, "-t", topic, "-p", strconv.Itoa(int(p)), "-K", "\t", "-z", codec,
			"-X", "enable.idempotence=true", "-X", "linger.ms=5"}
		for _, h := range kcatHeaders {
			args = append(args, "-H", h.Key+"="+string(h.Value))
		}
		err := k.run(ctx, args, func(in *bufio.Writer) error {
			for i := range perPartition {
				r := source.At(p, i)
				_, _ = in.Write(r.Key)
				_ = in.WriteByte('\t')
				_, _ = in.Write(r.Value)
				if err := in.WriteByte('\n'); err != nil {
					return err
				}
			}
			return nil
		}, nil)
		if err != nil {
			return fmt.Errorf("partition %d: %w", p, err)
		}
	}
	return nil
}

// The lengths come first, so that keys and values may hold anything.
const kcatFormat = `%p %o %T %K %S %h\n%k%s\n`

func (k kcat) consume(ctx context.Context, addr, topic, group string, count int64, sink func(*records.Record) error) error {
	args := []string{"-b", addr, "-q", "-f", kcatFormat, "-X", "check.crcs=true"}
	if group == "" {
		args = append(args, "-C", "-t", topic, "-o", "beginning", "-e")
	} else {
		args = append(args, "-X", "auto.offset.reset=earliest", "-c", strconv.FormatInt(count, 10), "-G", group, topic)
	}
	return k.run(ctx, args, nil, func(out *bufio.Reader) error {
		var record records.Record
		for {
			if err := parseKcat(out, &record); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := sink(&record); err != nil {
				return err
			}
		}
	})
}

func parseKcat(in *bufio.Reader, r *records.Record) error {
	line, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 6)
	if len(fields) != 6 {
		return fmt.Errorf("kcat printed %q where a record was expected", line)
	}
	var n [5]int64
	for i := range n {
		if n[i], err = strconv.ParseInt(fields[i], 10, 64); err != nil {
			return fmt.Errorf("kcat printed %q: %w", line, err)
		}
	}
	r.Partition, r.Offset, r.Timestamp, r.Headers = int32(n[0]), n[1], n[2], r.Headers[:0]
	if fields[5] != "" {
		for _, pair := range strings.Split(fields[5], ",") {
			key, value, _ := strings.Cut(pair, "=")
			r.Headers = append(r.Headers, records.Header{Key: key, Value: []byte(value)})
		}
	}
	body := make([]byte, max(n[3], 0)+max(n[4], 0)+1)
	if _, err := io.ReadFull(in, body); err != nil {
		return fmt.Errorf("kcat ended within a record: %w", err)
	}
	r.Key, r.Value = body[:max(n[3], 0)], body[max(n[3], 0):len(body)-1]
	if n[3] < 0 {
		r.Key = nil
	}
	if n[4] < 0 {
		r.Value = nil
	}
	return nil
}

func (k kcat) run(ctx context.Context, args []string, feed func(*bufio.Writer) error, drain func(*bufio.Reader) error) error {
	return pipe(exec.CommandContext(ctx, k.bin, args...), feed, drain)
}

// pipe runs a command, writes its input and reads its output, and reports the first thing that failed.
func pipe(cmd *exec.Cmd, feed func(*bufio.Writer) error, drain func(*bufio.Reader) error) error {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	fed := make(chan error, 1)
	go func() {
		w := bufio.NewWriterSize(in, 1<<20)
		var err error
		if feed != nil {
			err = feed(w)
		}
		fed <- errors.Join(err, w.Flush(), in.Close())
	}()
	r := bufio.NewReaderSize(out, 1<<20)
	var drained error
	if drain != nil {
		drained = drain(r)
	}
	if drained != nil {
		_ = cmd.Process.Kill()
	}
	_, _ = io.Copy(io.Discard, r)
	fedErr := <-fed
	waited := cmd.Wait()
	switch {
	case drained != nil:
		return drained
	case waited != nil:
		return fmt.Errorf("%s %s: %w: %s", cmd.Path, strings.Join(cmd.Args[1:], " "), waited, tail(stderr.String()))
	default:
		return fedErr
	}
}

func tail(s string) string {
	if len(s) > 2000 {
		return "..." + s[len(s)-2000:]
	}
	return s
}
