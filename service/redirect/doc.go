// Package redirect computes the next hop from a 3xx response.
package redirect
