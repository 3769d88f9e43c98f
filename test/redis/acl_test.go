package redis_test

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
	"github.com/mana/session/internal/world"
)

// documentedACL is what docs/operations.md gives to a bot's user on Redis.
func documentedACL(t *testing.T) []string {
	t.Helper()
	readme, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	rules := regexp.MustCompile("(?s)`(~bot:session[^`]*)`").FindSubmatch(readme)
	require.NotNil(t, rules)
	return strings.Fields(string(rules[1]))
}

// restricted is a world whose user on Redis may do what the rules say.
func restricted(t *testing.T, rules []string, database string) (*world.World, *redistest.Server) {
	t.Helper()
	server := redistest.Start(t, redistest.WithACL("bot on >secret "+strings.Join(rules, " ")))
	options, err := redis.ParseURL("redis://bot:secret@" + server.Addr + "/" + database)
	require.NoError(t, err)
	client := redis.NewClient(options)
	t.Cleanup(func() { client.Close() })
	return world.New(t, world.NewRedisStore(t, client)), server
}

// restrictedCluster is the same on a Cluster, in which alice's slot is moving
// from the first node to the second until moved is called.
func restrictedCluster(t *testing.T, rules []string) (w *world.World, from, to *redistest.Server, moved func()) {
	t.Helper()
	cluster := redistest.StartCluster(t, 2, 0, redistest.WithACL("bot on >secret "+strings.Join(rules, " ")))
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs(), Username: "bot", Password: "secret"})
	t.Cleanup(func() { client.Close() })
	from, to = cluster.Owner("bot:session:"+world.Alice), cluster.Nodes[0]
	if from == to {
		to = cluster.Nodes[1]
	}
	slot, target := from.MustDo("CLUSTER", "KEYSLOT", "bot:session:"+world.Alice), to.MustDo("CLUSTER", "MYID")
	to.MustDo("CLUSTER", "SETSLOT", slot, "IMPORTING", from.MustDo("CLUSTER", "MYID"))
	from.MustDo("CLUSTER", "SETSLOT", slot, "MIGRATING", target)
	return world.New(t, world.NewRedisStore(t, client)), from, to, func() {
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
func useEverything(ctx context.Context, w *world.World) error {
	var errs []error
	try := func(_ any, err error) { errs = append(errs, err) }
	do := func(err error) { try(nil, err) }
	w.Auth.SetTokenTTL(30 * time.Second)
	try(w.Svc.Login(ctx, world.Alice, world.Email, world.Password))
	w.Auth.SetTokenTTL(15 * time.Minute)
	current, err := w.Svc.Token(ctx, world.Alice) // by the refresh token, under a lease
	do(err)
	do(w.Svc.SetData(ctx, world.Alice, "k", 1))
	try(w.Svc.Data(ctx, world.Alice, "k", new(int)))
	do(w.Svc.DeleteData(ctx, world.Alice, "k"))
	w.Auth.RotateSigningKey()
	try(w.Svc.Refresh(ctx, world.Alice, current))
	w.Auth.Link(world.Bob, "bob@example.com")
	try(w.Svc.Token(ctx, world.Bob))
	if _, err := w.Svc.Token(ctx, "@nobody:matrix.example"); !errors.Is(err, session.ErrNotLoggedIn) { // gives a lease back
		do(err)
	}
	w.Auth.BreakDatabase(true)
	if _, err := w.Svc.Token(ctx, world.Carol); !errors.Is(err, session.ErrAuthUnavailable) { // leaves a note in its place
		do(err)
	}
	w.Auth.BreakDatabase(false)
	for _, err := range w.Svc.Users(ctx) {
		do(err)
	}
	try(w.Svc.Stats(ctx))
	try(w.Svc.Cleanup(ctx))
	do(w.Svc.Logout(ctx, world.Alice))
	do(w.Svc.Logout(ctx, world.Alice)) // who has been logged out before
	do(w.Svc.Logout(ctx, world.Bob, session.AndUnlink()))
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
	believed := func(t *testing.T, w *world.World, server *redistest.Server) {
		w.Login(w.Svc)
		w.Cache()
		before := world.MustToken(t, w.Svc, world.Alice)
		server.MustDo("SETEX", "bot:session:"+world.Alice, "1000", world.TsRecord(w.Auth.MintToken(world.Email, time.Now().Add(2*time.Hour)), world.Email, "{}"))
		w.ServedElse(before)
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
		w.Login(w.Svc)
		w.Cache()
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
		w.Login(w.Svc)
		w.Cache()
		require.Equal(t, []string{"client|tracking"}, refusals(server.MustDo("ACL", "LOG")))
	})
	for _, rule := range documented {
		t.Run("without "+rule, func(t *testing.T) {
			t.Parallel()
			removed := []string{rule}
			if strings.Contains(rule, "subscribe") || strings.HasPrefix(rule, "&") {
				removed = append(removed, tracking) // which they stand in for
			}
			var w *world.World
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
			world.Eventually(t, "a refusal", func() bool {
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
