package session

import (
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// The answers of a Redis server that mean something to the store. A hook may
// have wrapped them.

func isWrongType(err error) bool { return isReplyWith(err, "WRONGTYPE") }

// isTryAgain reports whether a script needs keys of a slot that is half moved.
func isTryAgain(err error) bool { return isReplyWith(err, "TRYAGAIN") }

// isNoPerm reports whether an ACL forbids something, such as the key of a trail.
func isNoPerm(err error) bool { return isReplyWith(err, "NOPERM") }

// isReply reports whether err is an answer of the server, not a lost connection.
func isReply(err error) bool { return isReplyWith(err, "") }

// isReplyWith reports whether err is an answer of the server that begins so.
func isReplyWith(err error, prefix string) bool {
	if err == nil {
		return false
	}
	var reply redis.Error
	return errors.As(err, &reply) && strings.HasPrefix(reply.Error(), prefix)
}

// explain adds what to do about an answer that the client's setup causes.
func (s *RedisStore) explain(err error) error {
	_, cluster := s.client.(*redis.ClusterClient)
	switch {
	case !cluster && (isReplyWith(err, "MOVED ") || isReplyWith(err, "ASK ")):
		return fmt.Errorf("%w (the server is a node of a Redis Cluster: use a ClusterClient)", err)
	case isReplyWith(err, "READONLY"):
		return fmt.Errorf("%w (the server is a replica: the client has to talk to the master)", err)
	}
	return err
}
