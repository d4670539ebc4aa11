%% @doc What publishers notice of a subscriber node that has stopped.
%%
%% A topic has subscribers on two nodes; the operating system stops one of the nodes. A
%% publish is a call, so whatever holds the gateway up is seen.
-module(bench_stalled).
-behaviour(bench).

-export([title/0, run/1, publish_calls/2]).

-define(TOPIC, <<"bench.stalled">>).
-define(CHANNEL, esdb_channel_events).
-define(TIMEOUT_MS, 1000).
%% What a call that failed counts for.
-define(FAILED_US, ?TIMEOUT_MS * 1.0e3).

-spec title() -> string().
title() -> "publishing while a subscriber node is stopped".

-spec run(bench:options()) -> [bench:row()].
run(#{quick := Quick} = Options) ->
    %% Healthy, and stopped, where it takes a while until the buffers are full.
    Times = case Quick of true -> {500, 2000}; false -> {30000, 30000} end,
    #{ours := Ours, theirs := Theirs} =
        bench_rig:both(Options, 3, fun(Rig, #{node := Node}) -> measure(Rig, Node, Times) end),
    Row = fun(Key, What, Unit) ->
        #{what => "a subscriber node is stopped: " ++ What, unit => Unit, better => less,
          against => "Erlang gateway", ours => [maps:get(Key, M) || M <- Ours],
          theirs => [maps:get(Key, M) || M <- Theirs]}
    end,
    P99 = Row(stopped, "publish call, p99", "us"),
    [P99,
     P99#{against => "itself, healthy", theirs := [H || #{healthy := H} <- Ours], target => 2},
     (Row(failures, "publish calls failed", "calls"))#{limit => 0}].

measure(#{publisher := Publisher, subscriber := Subscriber, alarm := Victim}, Node, Times) ->
    {HealthyMs, StoppedMs} = Times,
    _ = [bench_rig:call(Peer, bench_load, subscriber_of, [Node, ?CHANNEL, ?TOPIC], 10000)
         || Peer <- [Subscriber, Victim]],
    Calls = fun(Milliseconds) ->
        bench_rig:call(Publisher, ?MODULE, publish_calls, [Node, Milliseconds],
                       Milliseconds + 30000)
    end,
    {Healthy, 0} = Calls(HealthyMs),
    OsPid = bench_rig:call(Victim, os, getpid, [], 10000),
    [] = os:cmd("kill -STOP " ++ OsPid),
    {Stopped, Failures} = try Calls(StoppedMs) after os:cmd("kill -CONT " ++ OsPid) end,
    #{healthy => Healthy, stopped => Stopped, failures => Failures}.

%% @doc Publishes 1 KiB messages one after the other: the 99th percentile in microseconds, and
%% how many failed. Runs on a node of the rig.
-spec publish_calls(node(), pos_integer()) -> {float(), non_neg_integer()}.
publish_calls(Node, Milliseconds) ->
    Request = {publish, ?TOPIC, binary:copy(<<"x">>, 1024)},
    Failed = counters:new(1, []),
    Times = bench:time_calls(Milliseconds, fun() ->
        try
            ok = gen_server:call({?CHANNEL, Node}, Request, ?TIMEOUT_MS)
        catch
            _:_ -> counters:add(Failed, 1, 1)
        end
    end),
    case counters:get(Failed, 1) of
        0 -> {bench:percentile(Times, 99), 0};
        Failures -> {max(?FAILED_US, bench:percentile(Times, 99)), Failures}
    end.
