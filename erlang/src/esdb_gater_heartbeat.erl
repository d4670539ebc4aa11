%%% @private
%%% @doc Notices a gateway that keeps its connection and does not answer: one that is stopped,
%%% or behind a network that drops everything. The runtime system itself would take a minute.
%%%
%%% A process of its own, because the link may be suspended in a send to that very gateway
%%% when its socket is full. This one never is: a ping that cannot be sent counts as one
%%% without an answer. It cuts the connection, which sets free whoever is suspended and is
%%% what the link waits for.
%%%
%%% Five pings go out in the given time, and it takes four in a row without any answer: cut
%%% after four to five fifths of that time. Time in which this node itself stood still counts
%%% as one ping at most.
%%% @end
-module(esdb_gater_heartbeat).

-include_lib("kernel/include/logger.hrl").

-export([start_link/2, stop/1]).

-define(PINGS, 5).

%% @doc Watches a connected gateway until it is silent for so long, or until stopped.
-spec start_link(node(), SilenceMs :: pos_integer()) -> pid().
start_link(Gateway, Silence) ->
    spawn_link(fun() -> pulse(Gateway, Silence, 0) end).

%% @doc Stops watching.
-spec stop(pid() | undefined) -> ok.
stop(undefined) ->
    ok;
stop(Pid) ->
    true = unlink(Pid),
    true = exit(Pid, kill),
    ok.

pulse(Gateway, Silence, Missed) when Missed >= ?PINGS - 1 ->
    ?LOG_WARNING("erl_esdb_gater: gateway ~ts does not answer; its connection is cut after ~b ms",
                 [Gateway, Silence], #{application => erl_esdb_gater}),
    esdb_gater_transport:disconnect(Gateway);
pulse(Gateway, Silence, Missed) ->
    %% The answer is small, whatever the gateway has to tell of itself. One of an earlier version
    %% answers that it does not know the request.
    Ping = {'$gen_call', {self(), make_ref()}, ping},
    case erlang:send(esdb_gater_transport:address(esdb_gater_session, Gateway), Ping,
                     [noconnect, nosuspend]) of
        noconnect ->
            ok;                             % the link has noticed, too
        _ ->
            Until = erlang:monotonic_time(millisecond) + max(1, Silence div ?PINGS),
            case listen(Until, false) of
                true -> pulse(Gateway, Silence, 0);
                false -> pulse(Gateway, Silence, Missed + 1)
            end
    end.

%% Whichever ping it answers, an answer is a sign of life.
listen(Until, Heard) ->
    receive
        _ -> listen(Until, true)
    after max(0, Until - erlang:monotonic_time(millisecond)) ->
        Heard
    end.
