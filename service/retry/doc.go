// Package retry decides whether another attempt is worth making, and when.
package retry
