package broker

import (
	"math"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeCluster (key 60) v0-2. v1 brought the type of endpoint (KIP-919): clients reach brokers only, never the quorum. v2 can list
// fenced brokers (KIP-1073). Every broker answers from the metadata as it knows it.

const (
	endpointBrokers     = 1
	endpointControllers = 2
)

func (c *call) describeCluster(req kmsg.Request) {
	r := req.(*kmsg.DescribeClusterRequest)
	resp := kmsg.NewPtrDescribeClusterResponse()
	resp.ControllerID, resp.ClusterAuthorizedOperations, resp.EndpointType = -1, math.MinInt32, r.EndpointType
	if r.Version >= 1 && r.EndpointType != endpointBrokers {
		err := refuse(kerr.UnsupportedEndpointType, "Unsupported endpoint type %d", r.EndpointType)
		if r.EndpointType == endpointControllers {
			err = refuse(kerr.MismatchedEndpointType, "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER")
		}
		resp.ErrorCode, resp.ErrorMessage = metaCode(err), message(err)
		c.reply(resp)
		return
	}
	img := c.b.meta.Image()
	resp.EndpointType = endpointBrokers
	resp.ClusterID, resp.ControllerID = img.ClusterID, controllerShown(img)
	for _, reg := range img.Brokers() {
		if reg.Fenced && !r.IncludeFencedBrokers {
			continue
		}
		row := kmsg.NewDescribeClusterResponseBroker()
		row.NodeID, row.Host, row.Port, row.IsFenced = reg.ID, reg.Host, reg.Port, reg.Fenced
		if reg.Rack != "" {
			row.Rack = &reg.Rack
		}
		resp.Brokers = append(resp.Brokers, row)
	}
	if r.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = clusterOperations
	}
	c.reply(resp)
}
