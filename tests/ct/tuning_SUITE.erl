%% @doc What a node is asked to change about its end of a connection to the gateway.
-module(tuning_SUITE).

-export([all/0, groups/0, init_per_group/2, end_per_group/2]).
-export([a_node_reads_and_writes_more_at_a_time/1,
         what_a_node_has_beyond_that_is_kept/1,
         other_connections_of_the_node_are_left_alone/1,
         a_gateway_that_is_told_not_to_changes_nothing/1,
         a_node_that_answers_nonsense_is_borne_with/1]).

-define(BUFFER, 393216).

all() -> [{group, otp25}, {group, otp27}, {group, otp29}].

groups() ->
    Cases = [a_node_reads_and_writes_more_at_a_time,
             what_a_node_has_beyond_that_is_kept,
             other_connections_of_the_node_are_left_alone],
    [{otp25, [], Cases ++ [a_gateway_that_is_told_not_to_changes_nothing,
                           a_node_that_answers_nonsense_is_borne_with]},
     {otp27, [], Cases},
     {otp29, [], Cases}].

init_per_group(Release, Config) -> gater_harness:on_release(Release, Config).

end_per_group(_, _) -> ok.

a_node_reads_and_writes_more_at_a_time(Config) ->
    with(#{}, fun(World, Gateway) ->
        Beam = beam(World, Config, []),
        pong = ping(Beam, Gateway),
        becomes(Beam, Gateway, ?BUFFER, true)
    end).

what_a_node_has_beyond_that_is_kept(Config) ->
    with(#{}, fun(World, Gateway) ->
        Beam = beam(World, Config, ["-kernel", "inet_dist_connect_options", "[{buffer,1000000}]"]),
        pong = ping(Beam, Gateway),
        becomes(Beam, Gateway, 1000000, true)
    end).

other_connections_of_the_node_are_left_alone(Config) ->
    with(#{}, fun(World, Gateway) ->
        [Beam, #{node := Other}] = [beam(World, Config, []) || _ <- [1, 2]],
        pong = gater_harness:on(Beam, fun() -> net_adm:ping(Other) end),
        Before = options(Beam, Other),
        pong = ping(Beam, Gateway),
        becomes(Beam, Gateway, ?BUFFER, true),
        Before = options(Beam, Other)
    end).

%% Another gateway asks the same node, and is heard: so this one has had its chance.
a_gateway_that_is_told_not_to_changes_nothing(Config) ->
    with(#{env => [{"ESDB_GATER_TUNE_PEERS", "false"}]}, fun(World, Gateway) ->
        Beam = beam(World, Config, []),
        pong = ping(Beam, Gateway),
        {ok, Before} = options(Beam, maps:get(node, Gateway)),
        false = proplists:get_value(delay_send, Before),
        Tuning = gater_harness:gateway(World),
        pong = ping(Beam, Tuning),
        becomes(Beam, Tuning, ?BUFFER, true),
        {ok, Before} = options(Beam, maps:get(node, Gateway))
    end).

a_node_that_answers_nonsense_is_borne_with(Config) ->
    with(#{}, fun(World, #{node := Node} = Gateway) ->
        Beam = beam(World, Config, []),
        Asked = gater_harness:on(Beam, fun() ->
            Self = self(),
            Liar = spawn(fun() ->
                Lie = fun Lie(Count) ->
                    receive
                        {'$gen_call', {Pid, Tag}, _} ->
                            [Pid ! Answer || Answer <- [
                                Tag, {Tag}, {Tag + 1000, ok}, {-1, ok},
                                {Tag, {ok, [{buffer, -1}, {delay_send, 7}]}}]],
                            Count >= 1 andalso (Self ! asked),
                            Lie(Count + 1)
                    end
                end,
                Lie(0)
            end),
            unregister(rex),
            register(rex, Liar),
            pong = net_adm:ping(Node),
            receive asked -> true after 20000 -> false end
        end),
        true = Asked,
        pong = ping(Beam, Gateway),
        {ok, []} = gater_harness:call(Beam, {esdb_gater_worker_registry, Gateway},
                                      {get_workers, any_store})
    end).

%%% What the cases share

with(Options, Case) ->
    World = gater_harness:new(),
    try
        Case(World, gater_harness:gateway(World, Options))
    after
        gater_harness:stop(World)
    end.

beam(World, Config, Arguments) ->
    gater_harness:node(World, #{args => Arguments, otp => proplists:get_value(otp, Config),
                                modules => [?MODULE]}).

ping(Beam, #{node := Gateway}) ->
    gater_harness:on(Beam, fun() -> net_adm:ping(Gateway) end).

%% The node's options of its connection to another.
options(Beam, Other) ->
    gater_harness:on(Beam, fun() -> net_kernel:getopts(Other, [buffer, delay_send]) end).

becomes(Beam, #{node := Gateway}, Buffer, DelaySend) ->
    gater_harness:until(fun() ->
        options(Beam, Gateway) =:= {ok, [{buffer, Buffer}, {delay_send, DelaySend}]}
    end).
