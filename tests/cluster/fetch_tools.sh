#!/usr/bin/env bash
# Brings what `make test-cluster` runs against into build/tools, once: Beam's job servers for Spark
# and Flink (Maven), Prism and a server of Google Cloud Storage's protocol (Go). What cannot be had
# is said, and its tests skip.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
beam=2.77.0
tools=$PWD/build/tools
mkdir -p "$tools"

job_server() { # ENGINE ARTIFACT
    local jar=$tools/$1-job-server.jar
    [ -s "$jar" ] && return
    if mvn -q -B dependency:copy -Dartifact="org.apache.beam:$2:$beam" -Dmdep.stripVersion=true \
        -DoutputDirectory="$tools" > /dev/null 2>&1; then
        mv "$tools/$2.jar" "$jar"
        echo "$1 job server: Beam's own, $beam"
    elif mvn -q -B -f tests/cluster/job-server/pom.xml -P "$1" package; then
        mv "build/job-server/$1/job-server.jar" "$jar"
        echo "$1 job server: put together from Beam's runner library (tests/cluster/job-server)"
    else
        echo "$1 job server: cannot be had" >&2
    fi
}

program() { # NAME MODULE@VERSION
    [ -x "$tools/$1" ] && return
    if GOBIN=$tools go install "$2"; then
        echo "$1: built"
    else
        echo "$1: cannot be built" >&2
    fi
}

command -v mvn > /dev/null && {
    job_server spark beam-runners-spark-3-job-server
    job_server flink beam-runners-flink-1.20-job-server
}
command -v go > /dev/null && {
    program prism "github.com/apache/beam/sdks/v2/go/cmd/prism@v$beam"
    program fake-gcs-server github.com/fsouza/fake-gcs-server@v1.56.1
}
exit 0
