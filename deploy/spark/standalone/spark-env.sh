#!/usr/bin/env bash
# For each host of a standalone cluster, as conf/spark-env.sh of its Spark 3.5.0 (Scala 2.12).
# Each value can be set by the environment instead.
# shellcheck disable=SC2034  # read by Spark's own scripts, which source this file

# Tasks at a time: one Python worker each, so no more than the cores.
export SPARK_WORKER_CORES="${SPARK_WORKER_CORES:-4}"
# JVM heaps only; leave 2 GB per core of the host's memory to the Python workers.
export SPARK_WORKER_MEMORY="${SPARK_WORKER_MEMORY:-2g}"
export SPARK_DAEMON_MEMORY="${SPARK_DAEMON_MEMORY:-512m}"
# Fixed, so that a firewall can name them.
export SPARK_MASTER_PORT=7077
export SPARK_WORKER_PORT=7078

# The master calls a worker dead after this many seconds without a heartbeat. Its worker beats four
# times as often, so both must have the value.
timeout="-Dspark.worker.timeout=180"
# A master that was restarted knows its workers and builds again; without this a build would wait
# for executors for ever. The folder must be there and writable, else the master never serves; only
# the master's host needs it.
recovery_dir="${SPARK_RECOVERY_DIR:-/var/lib/spark/recovery}"
mkdir -p "${recovery_dir}" 2> /dev/null || true
if [[ ! -d ${recovery_dir} || ! -w ${recovery_dir} ]]; then
  echo "spark-env.sh: a master needs ${recovery_dir}, which cannot be written: give it to Spark's" \
    "user, or set SPARK_RECOVERY_DIR (a worker needs none)" >&2
fi
recovery="-Dspark.deploy.recoveryMode=FILESYSTEM"
recovery+=" -Dspark.deploy.recoveryDirectory=${recovery_dir}"
export SPARK_MASTER_OPTS="${timeout} ${recovery}"
# Each build leaves a copy of the job server's jar, 300 MB: away after a day.
cleanup="-Dspark.worker.cleanup.enabled=true -Dspark.worker.cleanup.appDataTtl=86400"
export SPARK_WORKER_OPTS="${timeout} ${cleanup} -Dspark.decommission.enabled=true"
