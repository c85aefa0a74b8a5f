// Package cookie keeps the cookies of one fetch across its hops (RFC 6265).
package cookie
