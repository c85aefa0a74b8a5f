// Package credential proves to an upstream who is asking; one file per kind.
package credential
