package session_test

import (
	"context"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/mana/session"
	"github.com/mana/session/internal/redistest"
)

// documentedACL is what the README gives to a bot's user on Redis.
func documentedACL(t *testing.T) []string {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	rules := regexp.MustCompile("(?s)`(~bot:session[^`]*)`").FindSubmatch(readme)
	require.NotNil(t, rules)
	return strings.Fields(string(rules[1]))
}

// restricted is a world whose user on Redis may do what the rules say.
func restricted(t *testing.T, rules []string, database string) (*world, *redistest.Server) {
	t.Helper()
	server := redistest.Start(t, redistest.WithACL("bot on >secret "+strings.Join(rules, " ")))
	options, err := redis.ParseURL("redis://bot:secret@" + server.Addr + "/" + database)
	require.NoError(t, err)
	client := redis.NewClient(options)
	t.Cleanup(func() { client.Close() })
	return newWorld(t, newRedisStore(t, client)), server
}

// restrictedCluster is the same on a Cluster, in which alice's slot is moving
// from the first node to the second until moved is called.
func restrictedCluster(t *testing.T, rules []string) (w *world, from, to *redistest.Server, moved func()) {
	t.Helper()
	cluster := redistest.StartCluster(t, 2, 0, redistest.WithACL("bot on >secret "+strings.Join(rules, " ")))
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs(), Username: "bot", Password: "secret"})
	t.Cleanup(func() { client.Close() })
	from, to = cluster.Owner("bot:session:"+alice), cluster.Nodes[0]
	if from == to {
		to = cluster.Nodes[1]
	}
	slot, target := from.MustDo("CLUSTER", "KEYSLOT", "bot:session:"+alice), to.MustDo("CLUSTER", "MYID")
	to.MustDo("CLUSTER", "SETSLOT", slot, "IMPORTING", from.MustDo("CLUSTER", "MYID"))
	from.MustDo("CLUSTER", "SETSLOT", slot, "MIGRATING", target)
	return newWorld(t, newRedisStore(t, client)), from, to, func() {
		for _, node := range []*redistest.Server{to, from} {
			node.MustDo("CLUSTER", "SETSLOT", slot, "NODE", target)
		}
	}
}

// refusals is what a server refused according to its ACL LOG: commands, keys and
// channels.
func refusals(log string) []string {
	var objects []string
	lines := strings.Split(log, "\n")
	for i := 1; i < len(lines); i++ {
		if lines[i-1] == "object" {
			objects = append(objects, lines[i])
		}
	}
	return objects
}

// useEverything makes a bot do all that there is to do with Redis, and returns
// what went wrong.
func useEverything(ctx context.Context, w *world) error {
	var errs []error
	try := func(_ any, err error) { errs = append(errs, err) }
	do := func(err error) { try(nil, err) }
	w.auth.SetTokenTTL(30 * time.Second)
	try(w.svc.Login(ctx, alice, email, password))
	w.auth.SetTokenTTL(15 * time.Minute)
	current, err := w.svc.Token(ctx, alice) // by the refresh token, under a lease
	do(err)
	do(w.svc.SetData(ctx, alice, "k", 1))
	try(w.svc.Data(ctx, alice, "k", new(int)))
	do(w.svc.DeleteData(ctx, alice, "k"))
	w.auth.RotateSigningKey()
	try(w.svc.Refresh(ctx, alice, current))
	w.auth.Link(bob, "bob@example.com")
	try(w.svc.Token(ctx, bob))
	if _, err := w.svc.Token(ctx, "@nobody:matrix.example"); !errors.Is(err, session.ErrNotLoggedIn) { // gives a lease back
		do(err)
	}
	w.auth.BreakDatabase(true)
	if _, err := w.svc.Token(ctx, carol); !errors.Is(err, session.ErrAuthUnavailable) { // leaves a note in its place
		do(err)
	}
	w.auth.BreakDatabase(false)
	for _, err := range w.svc.Users(ctx) {
		do(err)
	}
	try(w.svc.Stats(ctx))
	try(w.svc.Cleanup(ctx))
	do(w.svc.Logout(ctx, alice))
	do(w.svc.Logout(ctx, alice)) // who has been logged out before
	do(w.svc.Logout(ctx, bob, session.AndUnlink()))
	return errors.Join(errs...)
}

// The list is exact. With it nothing is refused, so no command is sent that is
// not on it, such as KEYS, which blocks a server, or CONFIG; and each of its
// rules is needed.
func TestDocumentedACLIsWhatIsNeeded(t *testing.T) {
	t.Parallel()
	documented := documentedACL(t)
	const tracking = "+client|tracking"
	require.Contains(t, documented, tracking)
	without := func(rules ...string) []string {
		return slices.DeleteFunc(slices.Clone(documented), func(r string) bool { return slices.Contains(rules, r) })
	}
	// believed checks that the near cache works, by tracking.
	believed := func(t *testing.T, w *world, server *redistest.Server) {
		w.login(w.svc)
		w.cache()
		before := mustToken(t, w.svc, alice)
		server.MustDo("SETEX", "bot:session:"+alice, "1000", tsRecord(w.auth.MintToken(email, time.Now().Add(2*time.Hour)), email, "{}"))
		w.servedElse(before)
		tracks(t, server)
	}
	t.Run("server", func(t *testing.T) {
		t.Parallel()
		w, server := restricted(t, documented, "0")
		require.NoError(t, useEverything(t.Context(), w))
		believed(t, w, server)
		require.Empty(t, refusals(server.MustDo("ACL", "LOG")))
	})
	t.Run("another database", func(t *testing.T) {
		t.Parallel()
		w, server := restricted(t, documented, "2")
		require.NoError(t, useEverything(t.Context(), w))
		w.login(w.svc)
		w.cache()
		tracks(t, server)
		require.Empty(t, refusals(server.MustDo("ACL", "LOG")))
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		w, from, to, moved := restrictedCluster(t, documented)
		require.NoError(t, useEverything(t.Context(), w))
		moved()
		believed(t, w, to)
		require.Empty(t, refusals(from.MustDo("ACL", "LOG")))
		require.Empty(t, refusals(to.MustDo("ACL", "LOG")))
	})
	t.Run("by Pub/Sub", func(t *testing.T) {
		t.Parallel()
		w, server := restricted(t, without(tracking), "0")
		require.NoError(t, useEverything(t.Context(), w))
		w.login(w.svc)
		w.cache()
		require.Equal(t, []string{"client|tracking"}, refusals(server.MustDo("ACL", "LOG")))
	})
	for _, rule := range documented {
		t.Run("without "+rule, func(t *testing.T) {
			t.Parallel()
			removed := []string{rule}
			if strings.Contains(rule, "subscribe") || strings.HasPrefix(rule, "&") {
				removed = append(removed, tracking) // which they stand in for
			}
			var w *world
			servers := make([]*redistest.Server, 1, 2)
			switch rule {
			case "+cluster|nodes", "+cluster|slots", "+asking", "+command":
				servers = servers[:2]
				w, servers[0], servers[1], _ = restrictedCluster(t, without(removed...))
			case "+select":
				w, servers[0] = restricted(t, without(removed...), "2")
			default:
				w, servers[0] = restricted(t, without(removed...), "0")
			}
			t.Cleanup(func() { // what could not be written waits, and Close for it
				for _, server := range servers {
					server.MustDo("ACL", "SETUSER", "bot", "+@all", "~*", "&*")
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // some wait for a lease then
			defer cancel()
			_ = useEverything(ctx, w)
			eventually(t, "a refusal", func() bool {
				return slices.ContainsFunc(servers, func(server *redistest.Server) bool {
					return slices.ContainsFunc(refusals(server.MustDo("ACL", "LOG")), func(object string) bool {
						command, isCommand := strings.CutPrefix(rule, "+")
						return isCommand && object == command || !isCommand && strings.HasPrefix(object, "bot:session")
					})
				})
			})
		})
	}
}
