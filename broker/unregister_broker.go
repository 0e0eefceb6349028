package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"
)

// UnregisterBroker (key 64) v0 forgets a broker that holds no replica; one that lives registers again. A broker that followed the metadata
// without a vote does not any more; a voter stays one until RemoveRaftVoter.

func (a *adminCall) unregisterBroker(req kmsg.Request) kmsg.Response {
	r := req.(*kmsg.UnregisterBrokerRequest)
	resp := kmsg.NewPtrUnregisterBrokerResponse()
	err := a.settled(a.b.ctl.Unregister(a.ctx, r.BrokerID))
	resp.ErrorCode, resp.ErrorMessage = metaCode(err), message(err)
	if err != nil {
		return resp
	}
	a.b.log.Info("broker unregistered", "broker", r.BrokerID, "peer", a.peer)
	if m := memberOf(a.b.meta.Quorum().Observers, r.BrokerID); m != nil {
		if err := a.b.meta.RemoveMember(a.ctx, r.BrokerID); err != nil {
			// It is forgotten all the same; the leader goes on trying to reach it until it is taken out.
			a.b.log.Warn("an unregistered broker still follows the metadata", "broker", r.BrokerID, "error", err)
		}
	}
	return resp
}

func unregisterBrokerFailed(_ kmsg.Request, code int16, message *string) kmsg.Response {
	resp := kmsg.NewPtrUnregisterBrokerResponse()
	resp.ErrorCode, resp.ErrorMessage = code, message
	return resp
}
