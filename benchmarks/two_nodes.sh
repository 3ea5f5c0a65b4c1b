#!/bin/sh
# Trains on two "nodes": network namespaces of this machine with a link of 1 Gbit/s between them. The
# second is killed in the middle and started again; the weights must be those of an undisturbed run.
#
#   sudo sh benchmarks/two_nodes.sh PYTHON CONFIG [FLAGS...]     needs iproute2 and root
set -eu
python=$1; config=$2; shift 2
folder=$(mktemp -d)
clean() {
  for n in a b; do
    ip netns pids metarl-$n | xargs -r kill -9
    ip netns del metarl-$n
  done
}
trap clean EXIT
for n in a b; do ip netns add metarl-$n; done
ip link add link-a type veth peer name link-b
for n in a b; do
  address=10.77.0.1
  [ $n = a ] || address=10.77.0.2
  ip link set link-$n netns metarl-$n
  ip -n metarl-$n addr add $address/24 dev link-$n
  ip -n metarl-$n link set link-$n up
  ip -n metarl-$n link set lo up
  ip netns exec metarl-$n tc qdisc add dev link-$n root tbf rate 1gbit burst 256kb latency 50ms
done

node() {  # NAME RUN FLAGS...
  name=$1; run=$2; shift 2
  [ "$name" = a ] && host=1 || host=0
  # Without the second variable, torchrun tells the address of the first rank in its first round only,
  # and a node that comes later waits for it until all give up.
  OMP_NUM_THREADS=1 TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 GLOO_SOCKET_IFNAME="link-$name" \
    ip netns exec "metarl-$name" \
    "$python" -m torch.distributed.run --nnodes 2 --nproc-per-node 1 --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint 10.77.0.1:29400 --rdzv-id "$run" \
    --rdzv-conf "is_host=$host" --local-addr 10.77.0.$((2 - host)) \
    train.py "$config" --run-dir "$folder/$run" --train.checkpoint_every 1 "$@" \
    > "$folder/$run-$name.log" 2>&1
}
checkpoints() {  # RUN
  [ ! -d "$folder/$1/checkpoints" ] ||
    find "$folder/$1/checkpoints" -mindepth 1 -maxdepth 1 -type d -exec basename {} \; | sort -n
}
sum() {  # RUN
  newest=$(checkpoints "$1" | tail -n 1)
  hash=$(sha256sum < "$folder/$1/checkpoints/$newest/tensors.safetensors")
  echo "$newest env steps, SHA-256 ${hash%% *}"
}

node a undisturbed "$@" & node b undisturbed "$@" || { tail "$folder"/*.log; exit 1; }
wait
echo "undisturbed: $(sum undisturbed)"

node a killed "$@" & first=$!
node b killed "$@" &
until [ "$(checkpoints killed | wc -l)" -ge 3 ]; do sleep 0.2; done
ip netns pids metarl-b | xargs kill -9
echo "second node killed after $(checkpoints killed | tail -n 1) env steps"
sleep 25  # torchrun notices within 15 s that the node is gone; before, it would count it in
node b killed "$@"
wait $first
echo "killed: $(sum killed)"
tail -n 3 "$folder/killed-a.log"
tail -n 1 "$folder/killed/metrics.jsonl" | tr ',' '\n' | grep -E 'ranks_s|rollout_s|update_s'
rm -r "$folder"
