%%% @private
%%% @doc Takes the gateway's acknowledgements of what processes of this node publish within their
%%% windows ({@link esdb_gater_window}), and counts what is lost with a gateway.
%%%
%%% One *session* is the time in which one gateway is used; a process that does nothing stands for
%%% it and ends with it, so whoever monitors that process hears of the loss at once. For each channel
%%% that is published on, it counts the publications that have been sent and those of them that the
%%% gateway is known to have taken: each mark says how many had been sent before it. What follows
%%% the last mark of a publisher is asked for, a short time after it was sent.
%%%
%%% A gateway that is given up while its connection holds is asked once more, and what it does not
%%% answer for is counted as lost. So nothing is lost without being counted; what the gateway took
%%% and could not acknowledge any more is counted as well.
%%% @end
-module(esdb_gater_acknowledger).

-behaviour(gen_server).

-include("../include/esdb_gater_telemetry.hrl").
-include("esdb_gater_window.hrl").
-include_lib("kernel/include/logger.hrl").

-export([start_link/0, open/2, await/2, look_after/4]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-define(LINK, esdb_gater_worker_registry).
-define(SESSION, esdb_gater_session).
-define(WINDOWS, esdb_gater_windows).
-define(MARKS, esdb_gater_marks).
-define(TIMEOUT, 5000).                 % ms; this process is never long in anything
-define(FOLLOW, 50).                    % ms until a lost link is looked for again
-define(ASK, 20).                       % ms until the gateway is asked what it has taken
-define(SETTLE, 100).                   % ms between looks at a session that is over
-define(SETTLES, 50).                   % so many looks at the most

%% The publications on a channel.
-record(flow, {
    window :: #window{},
    taken = 0 :: non_neg_integer(),     % by the gateway, at the least
    seen = 0 :: non_neg_integer()       % `taken' at the last look
}).

-record(session, {
    gateway :: node(),
    monitor :: reference(),
    connected = true :: boolean(),          % by the connection that the session began with
    flows = #{} :: #{atom() => #flow{}},
    looks = open :: open | pos_integer()    % that are left, once it is over
}).

-record(state, {
    link :: reference() | undefined,
    current :: pid() | undefined,
    sessions = #{} :: #{pid() => #session{}},
    waiters = #{} :: #{pos_integer() => {Session :: pid(), [gen_server:from()]}}
}).

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% @doc How to publish on a channel of the gateway in use.
-spec open(Channel :: atom(), Gateway :: node()) ->
          {ok, #window{}} | {none, node()} | {error, unknown_channel}.
open(Channel, Gateway) ->
    try gen_server:call(?MODULE, {open, Channel, Gateway}, ?TIMEOUT)
    catch exit:_ -> {none, Gateway}
    end.

%% @doc Returns when the gateway has answered a mark: `ok', or at once when it is lost.
-spec await(Mark :: pos_integer(), Milliseconds :: non_neg_integer()) -> ok | {error, no_gateway}.
await(Mark, Timeout) ->
    try gen_server:call(?MODULE, {await, Mark}, Timeout)
    catch exit:_ -> {error, no_gateway}
    end.

%% @doc Something has been sent on a channel where all had been acknowledged, or that is closed.
-spec look_after(State :: non_neg_integer(), Channel :: atom(), Session :: pid(),
                 atomics:atomics_ref()) -> ok.
look_after(?IDLE, Channel, Session, Counters) ->
    case atomics:compare_exchange(Counters, ?STATE, ?IDLE, ?ACTIVE) of
        ok -> gen_server:cast(?MODULE, {active, Channel, Session});
        ?ACTIVE -> ok;
        ?CLOSED -> look_after(?CLOSED, Channel, Session, Counters)
    end;
look_after(?CLOSED, Channel, Session, _Counters) ->
    gen_server:cast(?MODULE, {late, Channel, Session}).

%%% The process

-spec init([]) -> {ok, #state{}}.
init([]) ->
    process_flag(trap_exit, true),
    %% After a crash: publishers open their windows anew.
    ok = esdb_gater_window:close_all(),
    true = ets:delete_all_objects(?MARKS),
    {ok, follow(#state{})}.

-spec handle_call(term(), gen_server:from(), #state{}) ->
          {reply, term(), #state{}} | {noreply, #state{}}.
handle_call({open, Channel, Gateway}, _From, #state{current = Current, sessions = Sessions} = State)
  when is_atom(Channel) ->
    %% Before it is in use the channels are those of another one.
    case {Sessions, esdb_gater_link:gateway()} of
        {#{Current := #session{gateway = Gateway} = Session}, {ok, Gateway}} ->
            {Answer, Opened} = opened(Channel, Current, Session),
            {reply, Answer, State#state{sessions = Sessions#{Current := Opened}}};
        _ ->
            {reply, {none, Gateway}, State}
    end;
handle_call({await, Mark}, From, #state{waiters = Waiters} = State) ->
    case ets:lookup(?MARKS, Mark) of
        [{_, Session, _, _}] when Session =:= State#state.current ->
            {_, Waiting} = maps:get(Mark, Waiters, {Session, []}),
            {noreply, State#state{waiters = Waiters#{Mark => {Session, [From | Waiting]}}}};
        [_] ->
            {reply, {error, no_gateway}, State};
        [] ->
            {reply, ok, State}
    end;
handle_call(Request, _From, State) ->
    {reply, {error, {unknown_request, Request}}, State}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast({active, Channel, Session}, State) ->
    _ = erlang:send_after(?ASK, self(), {ask, Channel, Session}),
    {noreply, State};
handle_cast({late, _Channel, Session}, #state{sessions = Sessions} = State)
  when is_map_key(Session, Sessions) ->
    {noreply, State};                                       % it will be looked at again
handle_cast({late, Channel, _Session}, State) ->
    ok = report([{Channel, 1}], unknown),
    {noreply, State};
handle_cast(_Message, State) ->
    {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info({Mark, _Answer}, State) when is_integer(Mark) ->
    {noreply, answered(Mark, State)};
handle_info({ask, Channel, Session}, State) ->
    {noreply, ask(Channel, Session, State)};
handle_info({settle, Session}, State) ->
    {noreply, settle(Session, State)};
handle_info({esdb_gater_link, {up, Node}}, State) ->
    Opened = begin_session(Node, end_session(State)),
    gen_server:cast(?LINK, {restored, Node, self()}),
    {noreply, Opened};
handle_info({esdb_gater_link, down}, State) ->
    {noreply, end_session(State)};
handle_info({'DOWN', Ref, process, _, _}, #state{link = Ref} = State) ->
    {noreply, follow(end_session(State))};
handle_info({'DOWN', Ref, process, _, _}, #state{sessions = Sessions} = State) ->
    {noreply, State#state{sessions = maps:map(fun(_, Session) -> cut(Ref, Session) end, Sessions)}};
handle_info(follow, State) ->
    {noreply, follow(State)};
handle_info(_Message, State) ->
    {noreply, State}.

-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, _State) ->
    try esdb_gater_window:close_all()
    catch error:badarg -> ok                            % the tables have ended as well
    end.

follow(State) ->
    case whereis(?LINK) of
        undefined ->
            _ = erlang:send_after(?FOLLOW, self(), follow),
            State#state{link = undefined};
        Pid ->
            Ref = erlang:monitor(process, Pid),
            ok = esdb_gater_link:follow(self()),
            State#state{link = Ref}
    end.

%%% Sessions

begin_session(Gateway, #state{sessions = Sessions} = State) ->
    Session = spawn_link(fun() -> receive stop -> ok end end),
    Address = esdb_gater_transport:address(?SESSION, Gateway),
    Began = #session{gateway = Gateway, monitor = erlang:monitor(process, Address)},
    State#state{current = Session, sessions = Sessions#{Session => Began}}.

%% What comes from a gateway of that name from now on says nothing about what was sent before.
cut(Ref, #session{monitor = Ref} = Session) -> Session#session{connected = false};
cut(_Ref, Session) -> Session.

%% Who waits is told at once; what was lost is counted after a moment, so that publishers that
%% were just sending are counted as well.
end_session(#state{current = undefined} = State) ->
    State;
end_session(#state{current = Current, sessions = Sessions, waiters = Waiters} = State) ->
    #{Current := Session} = Sessions,
    ok = esdb_gater_window:close_all(),
    true = unlink(Current),
    true = exit(Current, kill),
    maps:foreach(fun(_, {_, Waiting}) -> reply_all(Waiting, {error, no_gateway}) end, Waiters),
    ok = probe_all(Session),
    _ = erlang:send_after(?SETTLE, self(), {settle, Current}),
    State#state{current = undefined, waiters = #{},
                sessions = Sessions#{Current := Session#session{looks = ?SETTLES}}}.

opened(Channel, Pid, #session{gateway = Gateway, flows = Flows} = Session) ->
    case {Flows, esdb_gater_link:gateway_channels()} of
        {#{Channel := #flow{window = Window}}, _} ->
            {{ok, Window}, Session};
        {_, #{Channel := Policy}} ->
            Window = window(Channel, Gateway, Pid, Policy),
            true = ets:insert(?WINDOWS, Window),
            {{ok, Window}, Session#session{flows = Flows#{Channel => #flow{window = Window}}}};
        _ ->
            {{error, unknown_channel}, Session}
    end.

%% An earlier gateway does not say whether it refuses, and knows of no local delivery.
window(Channel, Gateway, Session, Policy) ->
    Windowed = maps:get(refuses, Policy, true) =:= false,
    Local = Windowed andalso maps:get(replay_last, Policy, true) =:= false,
    #window{channel = Channel, gateway = Gateway, session = Session, acknowledger = self(),
            counters = atomics:new(2, []), windowed = Windowed, local = Local}.

settle(Pid, #state{sessions = Sessions} = State) ->
    case Sessions of
        #{Pid := #session{flows = Flows, gateway = Gateway, looks = Looks} = Session} ->
            Open = [Channel || {Channel, Flow} <- maps:to_list(Flows), outstanding(Flow) > 0],
            case Open =/= [] andalso Looks > 1 andalso Session#session.connected of
                true ->
                    ok = probe_all(Session),
                    _ = erlang:send_after(?SETTLE, self(), {settle, Pid}),
                    Next = Session#session{looks = Looks - 1},
                    State#state{sessions = Sessions#{Pid := Next}};
                false ->
                    Lost = [{Channel, outstanding(maps:get(Channel, Flows))} || Channel <- Open],
                    true = erlang:demonitor(Session#session.monitor, [flush]),
                    ok = report(Lost, Gateway),
                    true = ets:match_delete(?MARKS, {'_', Pid, '_', '_'}),
                    State#state{sessions = maps:remove(Pid, Sessions)}
            end;
        _ ->
            State
    end.

%%% Acknowledgements

answered(Mark, #state{sessions = Sessions, waiters = Waiters} = State) ->
    case ets:take(?MARKS, Mark) of
        [{_, Pid, Channel, Reached}] ->
            Left = case maps:take(Mark, Waiters) of
                       {{_, Waiting}, Rest} -> reply_all(Waiting, ok), Rest;
                       error -> Waiters
                   end,
            Known = case Sessions of
                        #{Pid := #session{connected = true, flows = #{Channel := Flow} = Flows}
                              = Session} ->
                            Taken = Flow#flow{taken = max(Reached, Flow#flow.taken)},
                            Sessions#{Pid := Session#session{flows = Flows#{Channel := Taken}}};
                        _ ->
                            Sessions
                    end,
            State#state{sessions = Known, waiters = Left};
        [] ->
            State
    end.

reply_all(Waiting, Answer) ->
    lists:foreach(fun(From) -> gen_server:reply(From, Answer) end, Waiting).

outstanding(#flow{window = #window{counters = Counters}, taken = Taken}) ->
    atomics:get(Counters, ?SENT) - Taken.

%% While marks are answered there is nothing to ask.
ask(Channel, Pid, #state{current = Pid, sessions = Sessions} = State) ->
    #{Pid := #session{flows = Flows, connected = Connected} = Session} = Sessions,
    case Flows of
        #{Channel := #flow{taken = Taken, seen = Seen, window = Window} = Flow} ->
            _ = case outstanding(Flow) of
                    0 ->
                        idle(Flow, Channel, Pid);
                    _ ->
                        _ = Connected andalso Taken =:= Seen andalso probe(Window),
                        _ = erlang:send_after(?ASK, self(), {ask, Channel, Pid})
                end,
            Looked = Session#session{flows = Flows#{Channel := Flow#flow{seen = Taken}}},
            State#state{sessions = Sessions#{Pid := Looked}};
        #{} ->
            State
    end;
ask(_Channel, _Session, State) ->
    State.

%% What is published from now on, or has been since the look, begins anew.
idle(#flow{window = #window{counters = Counters}} = Flow, Channel, Pid) ->
    ok = atomics:put(Counters, ?STATE, ?IDLE),
    case outstanding(Flow) of
        0 -> ok;
        _ -> look_after(?IDLE, Channel, Pid, Counters)
    end.

probe_all(#session{connected = true, flows = Flows}) ->
    maps:foreach(fun(_, #flow{window = Window} = Flow) ->
                     _ = outstanding(Flow) > 0 andalso probe(Window)
                 end, Flows);
probe_all(#session{connected = false}) ->
    ok.

%% All that was sent on the channel arrives before this question.
probe(#window{channel = Channel, gateway = Gateway, session = Session, counters = Counters}) ->
    Mark = erlang:unique_integer([positive]),
    Reached = atomics:get(Counters, ?SENT),
    true = ets:insert(?MARKS, {Mark, Session, Channel, Reached}),
    Address = esdb_gater_transport:address(Channel, Gateway),
    case erlang:send(Address, {'$gen_call', {self(), Mark}, {acknowledge}}, [noconnect, nosuspend]) of
        ok -> ok;
        _ -> true = ets:delete(?MARKS, Mark), ok
    end.

%%% What is lost

report([], _Gateway) ->
    ok;
report(Lost, Gateway) ->
    Channels = esdb_gater_link:gateway_channels(),
    lists:foreach(
      fun({Channel, Count}) ->
              Lane = maps:get(priority, maps:get(Channel, Channels, #{}), normal),
              esdb_gater_events:dispatch(?GATER_CHANNEL_DROPPED, #{count => Count},
                                         #{channel => Channel, lane => Lane, node => Gateway,
                                           reason => gateway_lost})
      end, Lost),
    ?LOG_WARNING("erl_esdb_gater: gateway ~ts was lost with ~b publications that it had not "
                 "acknowledged; they may not have been delivered (~ts)",
                 [Gateway, lists:sum([Count || {_, Count} <- Lost]),
                  lists:join(", ", [io_lib:format("~ts: ~b", [Channel, Count])
                                    || {Channel, Count} <- lists:sort(Lost)])],
                 #{application => erl_esdb_gater}).
