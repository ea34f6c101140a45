#!/usr/bin/env bash
# Trains one model on two hosts, which are two network namespaces with a cable between them, and compares every byte with
# the run of one process. Needs Linux, root, iproute2, util-linux and Open MPI.
# Usage: tests/two_hosts.sh TERN-WITH-MPI [KEY=VALUE…]
# RATE=1gbit limits the cable (a queue of `tc`). KEEP=DIR keeps the runs there.
set -euo pipefail
cd "$(dirname "$0")/.."
tern=$(realpath "$1")
shift

if ! mpirun --version >/dev/null 2>&1 || ! ip netns add "tern-$$-probe"; then
  echo "skipped: two hosts need Open MPI, iproute2, and a user who may make network namespaces"
  exit 0
fi
ip netns del "tern-$$-probe"

# Namespaces have names of this process; their hosts see only each other.
one=tern-$$-1 two=tern-$$-2
work=$(mktemp -d)
out=${KEEP:-$work}
cleanup() {
  ip netns del "$one" || true
  ip netns del "$two" || true
  rm -rf "$work"
}
trap cleanup EXIT
ip netns add "$one"
ip netns add "$two"
ip link add eth0 netns "$one" type veth peer name eth0 netns "$two"
for host in 1 2; do
  ip -n "tern-$$-$host" address add "10.77.0.$host/24" dev eth0
  ip -n "tern-$$-$host" link set eth0 up
  ip -n "tern-$$-$host" link set lo up
  [ -z "${RATE:-}" ] || tc -n "tern-$$-$host" qdisc add dev eth0 root tbf rate "$RATE" burst 1mb latency 50ms
done

# What ssh is to real hosts: enters the namespace of an address, under a host name of its own.
cat > "$work/enter" <<END
#!/bin/sh
host=\$1
shift
exec ip netns exec "tern-$$-\${host##*.}" unshare --uts sh -c "hostname host-\${host##*.}; \$*"
END
chmod +x "$work/enter"

cat > "$work/run.toml" <<'END'
[model]
architecture = "bitlm"
hidden_size = 64
intermediate_size = 160
num_hidden_layers = 2
num_attention_heads = 2
max_position_embeddings = 64
[data]
corpus = "stories"
train_stories = 300
valid_stories = 20
seq_len = 64
micro_batch = 2
[data.tokenizer]
train = "unigram"
vocab_size = 400
[train]
steps = 20
grad_accum = 2
eval_every = 10
checkpoint_every = 10
END
data=$out/data
"$tern" --quiet data prepare "$work/run.toml" --out "$data"
run=(--quiet train "$work/run.toml" --data "$data" "$@")
sent() { ip -n "$one" -s -j link show eth0 | sed 's/.*"tx":{"bytes":\([0-9]*\).*/\1/'; }

before=$(sent)
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
"$work/enter" 10.77.0.1 mpirun --host 10.77.0.1:1,10.77.0.2:1 --bind-to none --mca plm_rsh_agent "$work/enter" \
  --mca btl tcp,self --mca pml ob1 --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 \
  "$tern" "${run[@]}" --out "$out/two"
bytes=$(($(sent) - before))
"$tern" "${run[@]}" --out "$out/one"

(cd "$out/one" && find checkpoints metrics.jsonl events.jsonl weights.jsonl -type f) | while read -r file; do
  cmp "$out/one/$file" "$out/two/$file"
done
echo "two hosts wrote the bytes of one process; $bytes bytes left the first"
