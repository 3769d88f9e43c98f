package sessiontest

import (
	"net"
	"net/http"
	"strconv"
	"time"
)

// caller is who a limit is counted for.
type caller struct {
	op   Op
	host string
}

// throttle counts the calls of a caller within a sliding minute.
type throttle struct {
	calls   []time.Time // of the last minute, oldest first
	resets  time.Time   // what X-RateLimit-Reset counts down to
	blocked time.Time   // the end of a block; zero: none
}

const minute = time.Minute

// limited counts a call, and refuses it beyond the limit of its kind. It is
// called with s.mu held.
func (s *AuthServer) limited(header http.Header, op Op, r *http.Request) *refusal {
	limit := s.limits[op]
	if limit <= 0 {
		return nil
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	t := s.throttles[caller{op, host}]
	if t == nil {
		t = new(throttle)
		s.throttles[caller{op, host}] = t
	}
	now := time.Now()
	if block := t.count(now, limit); block > 0 {
		return &refusal{http.StatusTooManyRequests, "ThrottlerException: Too Many Requests", seconds(block)}
	}
	header.Set("X-RateLimit-Limit", strconv.Itoa(limit))
	header.Set("X-RateLimit-Remaining", strconv.Itoa(limit-len(t.calls)))
	header.Set("X-RateLimit-Reset", seconds(t.resets.Sub(now)))
	return nil
}

// count enters a call, and returns how long its caller is blocked. Calls during
// a block do not count, and it leaves nothing behind.
func (t *throttle) count(now time.Time, limit int) (block time.Duration) {
	if !t.blocked.IsZero() {
		if left := t.blocked.Sub(now); left > 0 {
			return left
		}
		*t = throttle{}
	}
	if !now.Before(t.resets) {
		t.resets = now.Add(minute)
	}
	for len(t.calls) > 0 && now.Sub(t.calls[0]) >= minute {
		t.calls = t.calls[1:]
	}
	t.calls = append(t.calls, now)
	if len(t.calls) > limit {
		t.blocked = now.Add(minute)
		return minute
	}
	return 0
}

// seconds rounds up.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}
