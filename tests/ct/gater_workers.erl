%% @doc Workers of the store `store' on the first node of a cluster, for suites that see whether
%% registrations outlast what is done to its gateways.
-module(gater_workers).

-export([start/1, register/3, registered/3, await_offered/3]).

-define(REGISTRY, esdb_gater_worker_registry).
-define(CALL_MS, 10000).
-define(WITHIN_MS, 60000).

%% @doc Starts a process that could be a worker.
-spec start(gater_cluster:cluster()) -> pid().
start(Cluster) ->
    gater_cluster:on(Cluster, hd(gater_cluster:beams(Cluster)), fun gater_agent:start/0).

%% @doc Asks a gateway once to register a worker, and returns its answer.
-spec register(gater_cluster:cluster(), node(), pid()) -> ok | {error, term()}.
register(Cluster, Gateway, Worker) ->
    ask(Cluster, Gateway, {register, store, Worker}).

%% @doc Starts workers and registers each, as often as it takes.
-spec registered(gater_cluster:cluster(), node(), non_neg_integer()) -> [pid()].
registered(Cluster, Gateway, Count) ->
    Workers = [start(Cluster) || _ <- lists:seq(1, Count)],
    [gater_harness:until(fun() -> register(Cluster, Gateway, Worker) =:= ok end, ?WITHIN_MS)
     || Worker <- Workers],
    Workers.

%% @doc Waits until a gateway offers these workers, perhaps among others.
-spec await_offered(gater_cluster:cluster(), node(), [pid()]) -> ok.
await_offered(Cluster, Gateway, Workers) ->
    gater_harness:until(fun() ->
        case ask(Cluster, Gateway, {get_workers, store}) of
            {ok, Offered} -> Workers -- [Worker || {_, Worker} <- Offered] =:= [];
            _ -> false
        end
    end, ?WITHIN_MS).

ask(Cluster, Gateway, Request) ->
    [Beam | _] = gater_cluster:beams(Cluster),
    gater_cluster:call(Cluster, Beam, {?REGISTRY, Gateway}, Request, ?CALL_MS).
