package raftmeta

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// meta.properties says whose directory this is, in text, as Kafka's file of the same name does. It is written before anything
// else; in a cluster a second time, when the node first hears the cluster's id.
const (
	propertiesName     = "meta.properties"
	propertiesVersion  = 1
	propertiesBytesMax = 64 << 10
)

type properties struct {
	nodeID    int32
	clusterID string // empty: of a cluster whose id this node has not heard yet
}

// loadProperties reads the file and checks it against the options, or writes it on the first start.
func loadProperties(d *disk, o *Options) (properties, error) {
	name := path.Join(o.Dir, propertiesName)
	b, err := d.read(name, propertiesBytesMax)
	if errors.Is(err, fs.ErrNotExist) {
		p := properties{nodeID: o.NodeID, clusterID: o.ClusterID}
		if p.clusterID == "" && o.Sender == nil {
			p.clusterID = FormatID(NewID()) // alone, this node is the cluster
		}
		return p, d.write(name, []byte(p.String()))
	}
	if err != nil {
		return properties{}, err
	}
	p, err := parseProperties(string(b))
	if err != nil {
		return properties{}, fmt.Errorf("%s: %w", name, err)
	}
	if p.nodeID != o.NodeID {
		return properties{}, fmt.Errorf("%w: %s says node.id=%d, this node is %d", ErrWrongNode, name, p.nodeID, o.NodeID)
	}
	if o.ClusterID != "" && p.clusterID != "" && p.clusterID != o.ClusterID {
		return properties{}, fmt.Errorf("%w: %s says cluster.id=%s, this node is to join %s", ErrWrongCluster, name, p.clusterID, o.ClusterID)
	}
	return p, nil
}

func (p properties) String() string {
	text := fmt.Sprintf("version=%d\nnode.id=%d\n", propertiesVersion, p.nodeID)
	if p.clusterID != "" {
		text += "cluster.id=" + p.clusterID + "\n"
	}
	return text
}

func parseProperties(text string) (properties, error) {
	values := make(map[string]string)
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		k, v, ok := strings.Cut(line, "=")
		if !ok {
			return properties{}, fmt.Errorf("%w: line %q, want key=value", ErrCorrupt, line)
		}
		values[strings.TrimSpace(k)] = strings.TrimSpace(v)
	}
	if v := values["version"]; v != strconv.Itoa(propertiesVersion) {
		return properties{}, fmt.Errorf("%w: version=%q, want %d", ErrVersion, v, propertiesVersion)
	}
	id, err := strconv.ParseInt(values["node.id"], 10, 32)
	if err != nil || id < 0 {
		return properties{}, fmt.Errorf("%w: node.id=%q, want a number >= 0", ErrCorrupt, values["node.id"])
	}
	cluster, known := values["cluster.id"]
	if known && (cluster == "" || len(cluster) > clusterIDBytesMax) {
		return properties{}, fmt.Errorf("%w: cluster.id=%q, want 1 to %d characters", ErrCorrupt, cluster, clusterIDBytesMax)
	}
	return properties{nodeID: int32(id), clusterID: cluster}, nil
}
