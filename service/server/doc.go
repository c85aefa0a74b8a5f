// Package server answers the RPCs: message to plan, report to message, error
// to status.
//
// A request is checked whole before anything is done: what this server does
// not offer is refused by the field's path, never ignored. What the upstream
// did comes back in the answer; an RPC error means that fetchgate did not carry
// out the fetch.
package server
