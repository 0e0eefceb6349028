package broker

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestTopicConfigLimits: what CreateTopics accepts and refuses of the keys about storage, at the limits. A refusal names the key and what is expected.
func TestTopicConfigLimits(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), nil))
	const most = "9223372036854775807"
	for key, c := range map[string]struct {
		good, bad []string
		says      string
	}{
		"segment.bytes":                   {[]string{"1048576", "2147483647"}, []string{"1048575", "0", "-1", "2147483648", "1m", ""}, "at least 1048576"},
		"segment.ms":                      {[]string{"1", most}, []string{"0", "-1"}, "at least 1"},
		"segment.jitter.ms":               {[]string{"0", "1", most}, []string{"-1"}, "at least 0"},
		"segment.index.bytes":             {[]string{"4", "10485760"}, []string{"3", "-1"}, "at least 4"},
		"index.interval.bytes":            {[]string{"0", "1", "2147483647"}, []string{"-1"}, "at least 0"},
		"file.delete.delay.ms":            {[]string{"0", most}, []string{"-1"}, "at least 0"},
		"retention.ms":                    {[]string{"-1", "0", most}, []string{"-2", "1.5"}, "at least -1"},
		"retention.bytes":                 {[]string{"-1", "0", most}, []string{"-2", "x"}, "at least -1"},
		"max.message.bytes":               {[]string{"0", "2147483647"}, []string{"-1", "2147483648"}, "at least 0"},
		"message.timestamp.type":          {[]string{"CreateTime", "LogAppendTime"}, []string{"createtime", "", "None"}, "CreateTime"},
		"message.timestamp.before.max.ms": {[]string{"0", most}, []string{"-1"}, "at least 0"},
		"message.timestamp.after.max.ms":  {[]string{"0", most}, []string{"-1"}, "at least 0"},
		"cleanup.policy":                  {[]string{"delete", "compact", "compact,delete", "delete, compact"}, []string{"none", "delete,none"}, "delete, compact"},
		"min.compaction.lag.ms":           {[]string{"0", most}, []string{"-1"}, "at least 0"},
		"max.compaction.lag.ms":           {[]string{"1", most}, []string{"0"}, "at least 1"},
		"delete.retention.ms":             {[]string{"0", most}, []string{"-1"}, "at least 0"},
		"min.cleanable.dirty.ratio":       {[]string{"0", "0.5", "1"}, []string{"-0.1", "1.1", "NaN"}, "from 0 to 1"},
		"flush.ms":                        {[]string{"0", most}, []string{"-1"}, "at least 0"},
		"flush.messages":                  {[]string{"1"}, []string{"0", "2"}, ""},
		"preallocate":                     {[]string{"false"}, []string{"true", "maybe"}, ""},
		"compression.type":                {[]string{"producer"}, []string{"gzip", "brotli"}, ""},
		"remote.storage.enable":           {[]string{"false"}, []string{"true"}, "no remote storage"},
		"message.format.version":          {nil, []string{"3.0"}, "unknown"}, // gone in Kafka 4
		"message.downconversion.enable":   {nil, []string{"true"}, "unknown"},
	} {
		for i, value := range append(append([]string(nil), c.good...), c.bad...) {
			req := createRequest(7, configured("t", key, value))
			req.ValidateOnly = true
			row := w.do(req).(*kmsg.CreateTopicsResponse).Topics[0]
			if i < len(c.good) {
				if row.ErrorCode != 0 {
					t.Errorf("%s=%s: %v: %s", key, value, kerr.ErrorForCode(row.ErrorCode), str(row.ErrorMessage))
				}
				continue
			}
			message := str(row.ErrorMessage)
			if row.ErrorCode != kerr.InvalidConfig.Code || !strings.Contains(message, key) || !strings.Contains(strings.ToLower(message), strings.ToLower(c.says)) {
				t.Errorf("%s=%q: %v, %q; want INVALID_CONFIG saying %q", key, value, kerr.ErrorForCode(row.ErrorCode), message, c.says)
			}
		}
	}
	both := createRequest(7, configured("t", "min.compaction.lag.ms", "11", "max.compaction.lag.ms", "10"))
	if row := w.do(both).(*kmsg.CreateTopicsResponse).Topics[0]; row.ErrorCode != kerr.InvalidConfig.Code {
		t.Errorf("lags that contradict each other: %v", kerr.ErrorForCode(row.ErrorCode))
	}
}
