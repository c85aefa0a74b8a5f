package server

// dropped gives back what an answer holds that was sent as its RPC ended: gRPC
// forgets such a message without freeing it, and it would count as held until the
// connection ends.
func dropped(answer any) {
	switch a := answer.(type) {
	case *fetchReply:
		a.held.forfeit()
	case *failureReply:
		a.held.forfeit()
	}
}

// forfeit gives back all that is held for the RPC, and lets nothing more be.
func (h *held) forfeit() { h.lease.Forfeit() }
