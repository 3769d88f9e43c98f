package redistest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestClusterServesAllSlotsAndReplacesAMaster(t *testing.T) {
	c := StartCluster(t, 3, 1)
	require.Len(t, c.Addrs(), 6)
	require.NoError(t, c.wellFormed())

	seen := make(map[*Server]bool)
	for i := range 50 {
		key := fmt.Sprint("key:", i)
		owner := c.Owner(key)
		require.NotNil(t, owner)
		require.Equal(t, "OK", owner.MustDo("SET", key, "v"))
		seen[owner] = true
	}
	require.Len(t, seen, 3)
	for _, master := range c.Nodes[:3] {
		require.True(t, seen[master])
	}

	owner := c.Owner("key:0")
	want := owner.MustDo("DBSIZE")
	replica := c.Nodes[3+slices.Index(c.Nodes, owner)]
	replica.Await("DBSIZE", func(got string, _ error) bool { return got == want })
	killed := time.Now()
	owner.Kill()
	err := poll(formationTimeout, nil, func() error {
		next := c.Owner("key:0")
		if next == nil || next == owner {
			return fmt.Errorf("owned by %v", next)
		}
		got, err := next.Do("GET", "key:0")
		if err == nil && got != "v" {
			return fmt.Errorf("value %q", got)
		}
		return err
	})
	require.NoError(t, err)
	t.Logf("replaced after %v", time.Since(killed))

	owner.Restart()
	require.NoError(t, poll(formationTimeout, nil, func() error {
		return owner.expect([]string{"INFO", "replication"}, [2]string{"role", "slave"})
	}))
}

func TestClusterNeedsNoReplicas(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 1, 0, WithPassword("secret"))
	require.Equal(t, c.Nodes[0], c.Owner("k"))
	require.Equal(t, "OK", c.Nodes[0].MustDo("SET", "k", "v"))
}

func TestSentinelsReplaceADeadMaster(t *testing.T) {
	for name, opts := range map[string][]Option{"open": nil, "password": {WithPassword("secret")}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := StartSentinel(t, opts...)
			require.Len(t, d.Addrs(), 3)
			addr, err := d.MasterAddr()
			require.NoError(t, err)
			require.Equal(t, d.Master.Addr, addr)
			d.Master.MustDo("SET", "k", "v")
			d.Replica.Await("GET k", func(got string, _ error) bool { return got == "v" })

			killed := time.Now()
			d.Master.Kill()
			require.NoError(t, poll(formationTimeout, nil, func() error {
				addr, err := d.MasterAddr()
				if err == nil && addr != d.Replica.Addr {
					return fmt.Errorf("master is still %s", addr)
				}
				return err
			}))
			require.Equal(t, "OK", d.Replica.MustDo("SET", "k2", "v"))
			require.Equal(t, "v", d.Replica.MustDo("GET", "k"))
			t.Logf("replaced after %v", time.Since(killed))

			d.Master.Restart()
			require.NoError(t, poll(formationTimeout, nil, func() error {
				return d.Master.expect([]string{"INFO", "replication"},
					[2]string{"role", "slave"}, [2]string{"master_link_status", "up"})
			}))
			require.Equal(t, "v", d.Master.MustDo("GET", "k2"))
		})
	}
}
