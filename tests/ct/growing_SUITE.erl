%% @doc Clusters that grow, as the operator's manual says: a gateway that ran alone becomes the first
%% of three, whatever comes in the way of those that are let in.
-module(growing_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_testcase/2, end_per_testcase/2]).
-export([a_gateway_that_ran_alone_becomes_the_first_of_three/1, two_that_are_added_at_once_both_vote/1,
         a_member_without_a_vote_is_given_one/1, a_change_whose_leader_dies_is_completed/1]).

-define(REGISTRY, esdb_gater_worker_registry).
%% Each begins with three new directories.
-define(TRIES, 4).
-define(TRY_MINUTES, 1).
-define(GROWN_MS, 60000).
-define(CALL_MS, 10000).

suite() -> [{timetrap, {minutes, 4}}].

all() ->
    [a_gateway_that_ran_alone_becomes_the_first_of_three, two_that_are_added_at_once_both_vote,
     a_member_without_a_vote_is_given_one, a_change_whose_leader_dies_is_completed].

init_per_testcase(_, Config) -> Config.

end_per_testcase(_, _) -> ok.

%% Stopped, started with --cluster, and the two others right behind it.
a_gateway_that_ran_alone_becomes_the_first_of_three(_) ->
    Tries = list_to_integer(os:getenv("GATER_TRIES", integer_to_list(?TRIES))),
    ct:timetrap({minutes, Tries * ?TRY_MINUTES}),
    [grow(Try) || Try <- lists:seq(1, Tries)].

grow(Try) ->
    {ok, Cluster} = gater_cluster:start(#{absent => 3, beams => 1}),
    try
        [One, Two, Three] = Gateways = gater_cluster:gateways(Cluster),
        gater_cluster:up_alone(Cluster, One),
        Before = registered(Cluster, One),
        0 = gater_cluster:terminate(Cluster, One),
        gater_cluster:up(Cluster, One),
        %% Both ask to be let in at the same moment.
        [begin gater_cluster:up(Cluster, New), gater_cluster:pause(Cluster, New) end || New <- [Two, Three]],
        [gater_cluster:resume(Cluster, New) || New <- [Two, Three]],
        await_voters(Cluster, One, Gateways, {attempt, Try}),
        gater_cluster:settle(Cluster),
        %% They count: with one of them lost, two of three are a majority.
        gater_cluster:kill(Cluster, lists:nth(2 + Try rem 2, Gateways)),
        [Left] = [Two, Three] -- [lists:nth(2 + Try rem 2, Gateways)],
        After = registered(Cluster, Left),
        await_offered(Cluster, Left, [Before, After])
    after
        gater_cluster:stop(Cluster)
    end.

%% Two operators at two gateways; both are answered that it is done.
two_that_are_added_at_once_both_vote(_) ->
    with_cluster(#{gateways => 3}, fun(Cluster, [One, Two | _] = Gateways) ->
        New = [gater_cluster:add_gateway(Cluster, #{}) || _ <- [1, 2]],
        Command = fun(At, Node) ->
            gater_cluster:command(Cluster, At, ["add", atom_to_list(Node)])
        end,
        Self = self(),
        Orders = [{spawn_link(fun() -> Self ! {self(), Command(At, Node)} end), Node}
                  || {At, Node} <- lists:zip([One, Two], New)],
        [receive {Pid, Answer} -> ?assertEqual({Node, {0, "done\n"}}, {Node, Answer}) end || {Pid, Node} <- Orders],
        await_voters(Cluster, One, Gateways ++ New, both)
    end).

%% It became a member and its leader had not gone on, as when that gave up waiting for it. An operator
%% who adds it again is not told that it has a registry of its own.
a_member_without_a_vote_is_given_one(_) ->
    with_cluster(#{gateways => 3}, fun(Cluster, [One | _] = Gateways) ->
        New = gater_cluster:add_gateway(Cluster, #{}),
        gater_cluster:pause(Cluster, New),
        Self = self(),
        Adding = spawn_link(fun() ->
            Self ! {self(), gater_cluster:command(Cluster, One, ["add", atom_to_list(New)])}
        end),
        %% Long enough to be dialled, or not: it is added again in any case.
        gater_cluster:resume(Cluster, New),
        receive {Adding, _} -> ok end,
        gater_harness:until(fun() ->
            gater_cluster:command(Cluster, One, ["add", atom_to_list(New)]) =:= {0, "done\n"}
        end),
        await_voters(Cluster, One, Gateways ++ [New], again)
    end).

%% The leader is killed while it lets one in; what it has begun, its successor completes.
a_change_whose_leader_dies_is_completed(_) ->
    with_cluster(#{gateways => 3}, fun(Cluster, Gateways) ->
        Leader = gater_cluster:leader(Cluster),
        [Other | _] = Gateways -- [Leader],
        New = gater_cluster:add_gateway(Cluster, #{}),
        Self = self(),
        Adding = spawn_link(fun() ->
            Self ! {self(), gater_cluster:command(Cluster, Other, ["add", atom_to_list(New)])}
        end),
        gater_harness:until(fun() -> is_member(Cluster, Other, New) end),
        gater_cluster:kill(Cluster, Leader),
        receive {Adding, _} -> ok end,
        gater_harness:until(fun() -> gater_cluster:leader(Cluster) =/= undefined end),
        gater_cluster:up(Cluster, Leader),
        await_voters(Cluster, Other, Gateways ++ [New], successor),
        _ = registered(Cluster, New)
    end).

%%% Small things

with_cluster(Options, Fun) ->
    {ok, Cluster} = gater_cluster:start(Options#{beams => 1}),
    try
        Gateways = gater_cluster:gateways(Cluster),
        await_voters(Cluster, hd(Gateways), Gateways, begun),
        gater_cluster:settle(Cluster),
        Fun(Cluster, Gateways)
    after
        gater_cluster:stop(Cluster)
    end.

is_member(Cluster, Gateway, Node) ->
    case gater_cluster:status(Cluster, Gateway) of
        #{members := Members} -> lists:any(fun(#{node := Name}) -> Name =:= Node end, Members);
        undefined -> false
    end.

%% A new worker that is registered at a gateway.
registered(Cluster, Gateway) ->
    [Beam | _] = gater_cluster:beams(Cluster),
    Worker = gater_cluster:on(Cluster, Beam, fun gater_agent:start/0),
    gater_harness:until(fun() ->
        gater_cluster:call(Cluster, Beam, {?REGISTRY, Gateway}, {register, store, Worker}, ?CALL_MS) =:= ok
    end, ?GROWN_MS),
    Worker.

await_offered(Cluster, Gateway, Workers) ->
    [Beam | _] = gater_cluster:beams(Cluster),
    gater_harness:until(fun() ->
        gater_cluster:call(Cluster, Beam, {?REGISTRY, Gateway}, {get_workers, store}, ?CALL_MS)
            =:= {ok, [{node(Worker), Worker} || Worker <- Workers]}
    end).

%% Nothing is missing any more, and the status says so.
await_voters(Cluster, Gateway, Voters, What) ->
    try
        gater_harness:until(fun() ->
            case gater_cluster:status(Cluster, Gateway) of
                #{members := Members, missing := []} ->
                    lists:sort([{Node, voter} || Node <- Voters])
                        =:= lists:sort([{Node, Role} || #{node := Node, role := Role} <- Members]);
                _ -> false
            end
        end, ?GROWN_MS)
    catch
        error:{never_happened, _} ->
            ct:fail({What, [{G, gater_cluster:status(Cluster, G)} || G <- gater_cluster:gateways(Cluster)]})
    end.
