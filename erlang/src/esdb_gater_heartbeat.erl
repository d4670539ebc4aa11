%%% @private
%%% @doc Detects a gateway that keeps its connection but does not answer, because it is stopped or
%%% the network drops everything. The runtime system itself would take a minute.
%%%
%%% The heartbeat is a process of its own, since the link may be suspended in a send to that very
%%% gateway when its socket is full. This process is never suspended: a ping that cannot be sent
%%% counts as a ping without an answer. It cuts the connection, which resumes all suspended
%%% processes and which the link monitors.
%%%
%%% Five pings are sent in the given time, and the connection is cut after four in a row without any
%%% answer, which is after four to five fifths of that time. A period in which this node itself
%%% stood still counts as at most one ping.
%%% @end
-module(esdb_gater_heartbeat).

-include_lib("kernel/include/logger.hrl").

-export([start_link/2, stop/1]).

-define(PINGS, 5).

%% @doc Monitors a connected gateway until it has been silent for the given time, or until {@link
%% stop/1} is called.
-spec start_link(node(), SilenceMs :: pos_integer()) -> pid().
start_link(Gateway, Silence) ->
    spawn_link(fun() -> beat(Gateway, Silence, 0) end).

%% @doc Stops the process that watches a gateway; `undefined' stands for none.
-spec stop(pid() | undefined) -> ok.
stop(undefined) ->
    ok;
stop(Pid) ->
    true = unlink(Pid),
    true = exit(Pid, kill),
    ok.

beat(Gateway, Silence, Missed) when Missed >= ?PINGS - 1 ->
    ?LOG_WARNING("erl_esdb_gater: gateway ~ts does not answer; its connection is cut after ~b ms",
                 [Gateway, Silence], #{application => erl_esdb_gater}),
    esdb_gater_transport:disconnect(Gateway);
beat(Gateway, Silence, Missed) ->
    %% The answer is small, whatever the state of the gateway. A gateway of an earlier version
    %% answers that it does not know the request.
    Ping = {'$gen_call', {self(), make_ref()}, ping},
    case erlang:send(esdb_gater_transport:address(esdb_gater_session, Gateway), Ping,
                     [noconnect, nosuspend]) of
        noconnect ->
            ok;                             % the link has noticed, too
        _ ->
            Until = erlang:monotonic_time(millisecond) + max(1, Silence div ?PINGS),
            case listen(Until, false) of
                true -> beat(Gateway, Silence, 0);
                false -> beat(Gateway, Silence, Missed + 1)
            end
    end.

%% An answer to any of the pings shows that the gateway is alive.
listen(Until, Heard) ->
    receive
        _ -> listen(Until, true)
    after max(0, Until - erlang:monotonic_time(millisecond)) ->
        Heard
    end.
