package broker

import (
	"regexp"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ApiVersions (key 18) v0-4. v3 brought the client's software name and version (KIP-511) and tagged features (KIP-584), v4
// features whose least version is 0 (KAFKA-17011). Weir has no features to vote on, so the lists are empty in
// all versions. The response header never has tags: netproto sees to it.

const (
	apiVersionsKey = 18
	produceKey     = 0
	fetchKey       = 1

	offsetForLeaderEpochKey = 23
	// produceVersionAdvertised is below what is served: librdkafka up to 2.x takes a broker whose least version is above 0 for one
	// that cannot compress (KAFKA-18659). No client sends those versions.
	produceVersionAdvertised = 0
)

// softwarePattern is what a client's software name and version may look like.
var softwarePattern = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?$`)

func (c *call) apiVersions(req kmsg.Request) {
	r := req.(*kmsg.ApiVersionsRequest)
	resp := kmsg.NewPtrApiVersionsResponse()
	if r.Version >= 3 && !(softwarePattern.MatchString(r.ClientSoftwareName) && softwarePattern.MatchString(r.ClientSoftwareVersion)) {
		resp.ErrorCode = kerr.InvalidRequest.Code
		c.reply(resp)
		return
	}
	for i := range apis {
		resp.ApiKeys = append(resp.ApiKeys, advertised(&apis[i]))
	}
	c.reply(resp)
}

// apiVersionsUnsupported answers a version that is not served. The client cannot be assumed to read anything but version 0, in
// which it learns what it may ask instead.
func (c *call) apiVersionsUnsupported() {
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.Version = 0
	resp.ErrorCode = kerr.UnsupportedVersion.Code
	resp.ApiKeys = []kmsg.ApiVersionsResponseApiKey{advertised(apisByKey[apiVersionsKey])}
	c.r.RespondKmsgAs(resp)
}

func advertised(a *api) kmsg.ApiVersionsResponseApiKey {
	key := kmsg.NewApiVersionsResponseApiKey()
	key.ApiKey, key.MinVersion, key.MaxVersion = a.key, a.min, a.max
	if a.key == produceKey {
		key.MinVersion = produceVersionAdvertised
	}
	return key
}
