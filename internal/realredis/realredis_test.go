package realredis

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestServerKeepsDataOverRestartOnlyWithPersistence(t *testing.T) {
	for name, kept := range map[string]bool{"memory only": false, "append only file": true} {
		t.Run(name, func(t *testing.T) {
			var opts []Option
			if kept {
				opts = append(opts, WithPersistence())
			}
			s := Start(t, opts...)
			s.MustDo("SET", "k", "v")
			s.Kill()
			require.Zero(t, s.PID())
			_, err := s.Do("PING")
			require.Error(t, err)
			s.Start()
			require.Equal(t, kept, s.MustDo("GET", "k") == "v")
		})
	}
}

func TestPausedServerAnswersNothingUntilResumed(t *testing.T) {
	s := Start(t)
	s.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := do(ctx, s.Addr, "", []string{"PING"})
	require.Error(t, err)
	s.Resume()
	require.Equal(t, "PONG", s.MustDo("PING"))
}

func TestServerAsksForItsPassword(t *testing.T) {
	s := Start(t, WithPassword("secret"))
	require.Equal(t, "PONG", s.MustDo("PING"))
	_, err := do(t.Context(), s.Addr, "", []string{"PING"})
	require.ErrorContains(t, err, "NOAUTH")
}

func TestClusterServesAllSlots(t *testing.T) {
	c := StartCluster(t, 3, 1)
	require.Len(t, c.Addrs(), 6)
	require.Contains(t, c.Nodes[2].MustDo("CLUSTER", "INFO"), "cluster_slots_ok:16384")
}

func TestSentinelsReplaceADeadMaster(t *testing.T) {
	d := StartSentinel(t)
	d.Master.Kill()
	d.Replica.Await("ROLE", func(answer string, err error) bool {
		return err == nil && len(answer) > 6 && answer[:6] == "master"
	})
}

func TestProxyFaults(t *testing.T) {
	s := Start(t)
	p := NewProxy(t, s.Addr)
	ping := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := do(ctx, p.Addr, "", []string{"PING"})
		return err
	}
	require.NoError(t, ping())
	p.Blackhole()
	require.Error(t, ping())
	p.Restore()
	require.NoError(t, ping())
	p.CutAfter(3)
	require.Error(t, ping())
	require.NoError(t, ping())
	p.Refuse()
	require.Error(t, ping())
	p.Restore()
	p.Delay(500 * time.Millisecond)
	require.Error(t, ping())
	p.Restore()
	require.NoError(t, ping())
}
