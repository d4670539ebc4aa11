%%% @private
%%% @doc The link of this node to a gateway, and the worker registry as this node sees it.
%%%
%%% Registered as `esdb_gater_worker_registry', so that the registry can be called here as it
%%% can on a gateway; what it speaks to there is the service `esdb_gater_session'. The process
%%% <ul>
%%% <li>connects to a gateway: the embedded one when told that it can serve, or one of those
%%%     that {@link esdb_gater_gateways} chooses from, the next when one is lost;</li>
%%% <li>attaches a session there and keeps this node's mirror of the registry
%%%     ({@link esdb_gater_mirror}) by what the session sends;</li>
%%% <li>registers again what was registered through this node, still lives and is missing there,
%%%     and has its followers, the relays of the channels, subscribe again;</li>
%%% <li>carries registrations to the gateway ({@link esdb_gater_pending}). One that finds no
%%%     gateway waits for it, or is asserted later where the configuration says `eventual'; one that
%%%     is taken back without a gateway is remembered ({@link esdb_gater_withdrawals}).</li>
%%% </ul>
%%% What it does and when is decided by {@link esdb_gater_link_core}, which also names the states;
%%% this module turns messages into events and carries out the actions.
%%%
%%% A session's messages arrive before the answer of the registration that caused them, because
%%% both travel on one connection in order and this process keeps its messages in order (it must
%%% not use `message_queue_data', nor postpone any of them).
%%%
%%% A lost connection shows at once. A gateway that keeps it and does not answer is found out by
%%% {@link esdb_gater_heartbeat}.
%%% @end
-module(esdb_gater_link_process).

-behaviour(gen_statem).

-include_lib("kernel/include/logger.hrl").

-export([start_link/1]).
-export([init/1, callback_mode/0, handle_event/4, terminate/3]).

-export_type([options/0]).

-type options() :: #{mode := embedded | named, gateways => [node()],
                     gateway_timeout_ms => pos_integer(),
                     registration => acknowledged | eventual}.

-define(SERVER, esdb_gater_worker_registry).
-define(SESSION, esdb_gater_session).
-define(REGISTRY, esdb_gater_worker_registry).
-define(PROTOCOL, 1).

-define(SILENCE_MS, 3000).              % a gateway may be silent, unless configured
-define(TICK_MS, 1000).                 % between looks at handlers of telemetry events
-define(REASSERT_MS, 30000).            % 25 percent more or less, between looks for what is
                                        % missing at the gateway, and for one on this host
-define(REASSERT_SOON_MS, 1000).        % after a refusal
-define(FORGET_MS, 600000).             % a faded registration is kept once to twice as long
-define(LEAVE_TIMEOUT_MS, 5000).
-define(PART_TIMEOUT_MS, 10000).        % until the next part of the registry has to come
-define(MOST_MS, 16#ffffffff).          % that a timer takes

-record(data, {
    core :: esdb_gater_link_core:core(),
    silence_ms :: pos_integer(),
    registration :: acknowledged | eventual,
    connector :: {pid(), reference()} | undefined,
    home :: {pid(), reference()} | undefined,   % connects to a gateway on this host
    session :: reference() | undefined,         % monitor of the gateway's service
    heartbeat :: pid() | undefined,
    requests = gen_server:reqids_new() :: gen_server:request_id_collection(),
    unconfirmed = #{} :: esdb_gater_mirror:unconfirmed(),
    parts :: esdb_gater_parts:parts() | undefined,  % of the registry, until the last has come
    monitors = #{} :: #{pid() => reference()},  % of the processes of registrations
    followers = #{} :: #{pid() => reference()},
    events = [] :: [esdb_gater_telemetry:event()]   % that the gateway was asked for
}).

-type state() :: esdb_gater_link_core:state().
-type result() :: gen_statem:event_handler_result(state(), #data{}).

-spec start_link(options()) -> {ok, pid()} | {error, term()}.
start_link(Options) ->
    gen_statem:start_link({local, ?SERVER}, ?MODULE, Options, []).

-spec callback_mode() -> [handle_event_function | state_enter].
callback_mode() -> [handle_event_function, state_enter].

-spec init(options()) -> {ok, state(), #data{}, [gen_statem:action()]}.
init(Options) ->
    process_flag(trap_exit, true),
    %% After a crash the tables are as they were; nothing of the old session counts.
    ok = esdb_gater_shared_state:unset(gateway),
    _ = net_kernel:monitor_nodes(true, [{node_type, all}]),
    Data = #data{core = esdb_gater_link_core:new(maps:with([mode, gateways], Options)),
                 silence_ms = maps:get(gateway_timeout_ms, Options, ?SILENCE_MS),
                 registration = maps:get(registration, Options, acknowledged)},
    {ok, idle, monitor_desired(Data),
     [{next_event, internal, known(Options)}, reassert_in(reassert_pause()), tick(), forget()]}.

%% After a crash of this process the program still runs, and members are still members.
known(#{mode := embedded}) ->
    case esdb_gater_shared_state:get(embedded) of
        {ok, Node} -> {start, {embedded, Node}};
        none -> start
    end;
known(#{mode := named}) ->
    case esdb_gater_shared_state:get(gateways) of
        {ok, Members} -> {start, {members, Members}};
        none -> start
    end.

-spec terminate(term(), state(), #data{}) -> ok.
terminate(_Reason, _State, _Data) ->
    %% The gateway monitors this process; there is nothing to take leave of.
    esdb_gater_shared_state:unset(gateway).

-spec handle_event(gen_statem:event_type() | enter, term(), state(), #data{}) -> result().
handle_event(enter, _Before, State, #data{core = Core} = Data) ->
    {Actions, Entered} = esdb_gater_link_core:enter(State, Core),
    {Transition, Done} = perform(Actions, Data#data{core = Entered}),
    {keep_state, Done, Transition};
handle_event(internal, Start, State, Data) ->
    step(Start, State, Data);
handle_event({call, From}, Request, State, Data) ->
    call(Request, From, State, Data);
handle_event(cast, Message, State, Data) ->
    cast(Message, State, Data);
handle_event(state_timeout, _, State, Data) ->
    step(timeout, State, Data);
handle_event({timeout, tick}, _, State, Data) ->
    ok = esdb_gater_telemetry:refresh(),
    {keep_state, tell_events(State, none, Data), [tick()]};
handle_event({timeout, reassert}, _, State, Data) ->
    reassert(State, Data);
handle_event({timeout, forget}, _, State, _Data) ->
    ok = forget_faded(State),
    {keep_state_and_data, [forget()]};
handle_event({timeout, connect}, _, State, Data) ->
    step(connect, State, Data);
handle_event({timeout, settle}, _, State, Data) ->
    step(settle, State, Data);
handle_event({timeout, Name}, _, State, Data) ->
    step({expire, Name}, State, Data);
handle_event(info, Message, State, Data) ->
    info(Message, State, Data).

%% The core decides, and its actions are carried out.
-spec step(esdb_gater_link_core:event(), state(), #data{}) -> result().
step(Event, State, #data{core = Core} = Data) ->
    {Next, Actions, Decided} = esdb_gater_link_core:handle(State, Event, Core),
    {Transition, Done} = perform(Actions, Data#data{core = Decided}),
    case Next of
        keep -> {keep_state, Done, Transition};
        {enter, State} -> {repeat_state, Done, Transition};
        {enter, Other} -> {next_state, Other, Done, Transition}
    end.

%%% Calls and casts

call({register, Store, Pid}, From, State, #data{registration = Registration} = Data)
  when is_atom(Store), is_pid(Pid) ->
    case node(Pid) =:= node() andalso {is_process_alive(Pid), Registration} of
        {false, _} -> {keep_state_and_data, [{reply, From, {error, noproc}}]};
        {true, eventual} -> answered(From, ok, step({assert, Store, Pid}, State, Data));
        _ -> step({carry, register, Store, Pid, From}, State, Data)
    end;
call({unregister, Store, Pid}, From, State, Data) when is_atom(Store), is_pid(Pid) ->
    step({carry, unregister, Store, Pid, From}, State, Data);
call({Kind, _, _}, From, _State, _Data) when Kind =:= register; Kind =:= unregister ->
    {keep_state_and_data, [{reply, From, {error, badarg}}]};
call({get_workers, Store}, From, _State, _Data) ->
    {keep_state_and_data, [{reply, From, {ok, esdb_gater_workers:list(Store)}}]};
call({get_local_workers, Store}, {Pid, _} = From, _State, _Data) ->
    Workers = [W || {Node, W} <- esdb_gater_workers:list(Store), Node =:= node(Pid)],
    {keep_state_and_data, [{reply, From, Workers}]};
call(list_stores, From, _State, _Data) ->
    {keep_state_and_data, [{reply, From, esdb_gater_workers:stores()}]};
call({await, What, Timeout}, From, State, Data)
  when (What =:= start orelse What =:= mirror orelse What =:= gateway),
       is_integer(Timeout), Timeout >= 0, Timeout =< ?MOST_MS ->
    case await(What) of
        {ok, ready} -> {keep_state_and_data, [{reply, From, ok}]};
        {ok, Node} -> {keep_state_and_data, [{reply, From, {ok, Node}}]};
        none -> step({await, What, Timeout, From}, State, Data)
    end;
%% The gateway is about to serve; it is told then, and the caller is answered after that.
call(Tell, _From, State, _Data)
  when Tell =:= handlers_changed orelse Tell =:= push_secret,
       State =:= attaching orelse State =:= restoring ->
    _ = Tell =:= push_secret andalso esdb_gater_shared_state:set(push_secret, true),
    {keep_state_and_data, [postpone]};
call(handlers_changed, From, State, Data) ->
    {keep_state, tell_events(State, From, Data)};
call(push_secret, From, State, Data) ->
    ok = esdb_gater_shared_state:set(push_secret, true),
    {keep_state, send_secret(State, From, Data)};
call(status, From, State, #data{core = Core, events = Events}) ->
    Status = esdb_gater_link_core:status(State, Core),
    {keep_state_and_data, [{reply, From, Status#{events => Events,
                                                 wanted => esdb_gater_desired:size()}}]};
call(Request, From, _State, _Data) ->
    {keep_state_and_data, [{reply, From, {error, {unknown_request, Request}}}]}.

answered(From, Answer, {keep_state, Data, Actions}) ->
    {keep_state, Data, [{reply, From, Answer} | Actions]}.

await(start) -> esdb_gater_shared_state:get(mirror);
await(What) -> esdb_gater_shared_state:get(What).

cast({Kind, Store, Pid}, State, Data)
  when is_atom(Store), is_pid(Pid), (Kind =:= register orelse Kind =:= unregister) ->
    step({carry, Kind, Store, Pid, none}, State, Data);
cast({follow, Pid}, State, Data) when is_pid(Pid) ->
    step({follow, Pid}, State, Data);
cast({restored, Node, Pid}, State, Data) ->
    step({relay_restored, Node, Pid}, State, Data);
cast(handlers_changed, State, Data) ->
    {keep_state, tell_events(State, none, Data)};
cast({embedded_up, Node}, State, Data) ->
    step({embedded_up, Node}, State, Data);
cast(Told, State, Data) when Told =:= out_of_reach; Told =:= embedded_down ->
    step(Told, State, Data);
cast(_Message, _State, _Data) ->
    keep_state_and_data.

%%% Messages

info({esdb_gater_registry, part, _Revision, Part}, State, Data)
  when State =/= idle, State =/= connecting ->
    %% A large registry takes long to come. As long as it comes, the gateway is there.
    {keep_state, Data#data{parts = esdb_gater_parts:add(Part, parts(Data))},
     [{state_timeout, ?PART_TIMEOUT_MS, timeout} || State =:= attaching]};
info({esdb_gater_registry, reset, Revision, Last}, State, Data)
  when State =/= idle, State =/= connecting ->
    Source = esdb_gater_link_core:source(Data#data.core),
    {Registry, Changes} = esdb_gater_parts:whole(Last, parts(Data)),
    {Missing, Unsure} = esdb_gater_mirror:reset(Registry, Source),
    Unconfirmed = lists:foldl(fun({Change, Store, Pid}, Acc) ->
                                  esdb_gater_mirror:Change(Store, Pid, Acc)
                              end, Unsure, Changes),
    step({registry, Revision, Missing, map_size(Unconfirmed) > 0}, State,
         monitor_desired(Data#data{unconfirmed = Unconfirmed, parts = undefined}));
info({esdb_gater_registry, Change, _Revision, Store, Pid}, _State, #data{parts = Parts} = Data)
  when Parts =/= undefined, (Change =:= added orelse Change =:= removed) ->
    {keep_state, Data#data{parts = esdb_gater_parts:change(Change, Store, Pid, Parts)}};
info({esdb_gater_registry, Change, Revision, Store, Pid}, State, Data)
  when (Change =:= added orelse Change =:= removed), is_integer(Revision) ->
    step({change, Change, Revision, Store, Pid}, State, Data);
info({esdb_gater_event, Event, Measurements, Metadata}, _State, _Data)
  when is_map(Measurements), is_map(Metadata) ->
    ok = esdb_gater_events:dispatch(Event, Measurements, Metadata),
    keep_state_and_data;
info({esdb_gater_gateways, Members}, State, Data) ->
    step({members, Members}, State, Data);
info({'DOWN', Ref, process, _, Result}, State, #data{connector = {_, Ref}} = Data) ->
    step({connected, connected(Result)}, State, Data#data{connector = undefined});
info({'DOWN', Ref, process, _, Result}, State, #data{home = {_, Ref}} = Data) ->
    step({home_reached, connected(Result)}, State, Data#data{home = undefined});
info({'DOWN', Ref, process, _, Reason}, State, #data{session = Ref} = Data) ->
    step({lost, Reason}, State, Data#data{session = undefined});
info({'DOWN', Ref, process, Pid, Reason} = Message, State, Data) ->
    #data{monitors = Monitors, followers = Followers} = Data,
    case {Monitors, Followers} of
        {#{Pid := Ref}, _} ->
            ok = esdb_gater_mirror:ended(Pid, Reason),
            {keep_state, Data#data{monitors = maps:remove(Pid, Monitors)}};
        {_, #{Pid := Ref}} ->
            step({follower_ended, Pid}, State, Data#data{followers = maps:remove(Pid, Followers)});
        _ ->
            answer(Message, State, Data)
    end;
info({'EXIT', Heartbeat, Reason}, _State, #data{heartbeat = Heartbeat} = Data) ->
    %% One that ends by itself has cut the connection, which shows by itself.
    Node = esdb_gater_link_core:gateway(Data#data.core),
    Next = case Reason of
               normal -> undefined;
               _ -> esdb_gater_heartbeat:start_link(Node, Data#data.silence_ms)
           end,
    {keep_state, Data#data{heartbeat = Next}};
info({nodeup, Node, _}, State, Data) ->
    step({node_up, Node}, State, Data);
info({nodedown, _, _}, _State, _Data) ->
    keep_state_and_data;
info({left, Node}, State, Data) ->
    step({left, Node}, State, Data);
%% Whoever cannot wait for the time-outs of these names says so.
info(reassert, State, Data) ->
    reassert(State, Data);
info(forget, State, _Data) ->
    ok = forget_faded(State),
    keep_state_and_data;
info(Message, State, Data) ->
    answer(Message, State, Data).

connected({connected, Answer}) -> Answer;
connected(_Crash) -> false.

answer(Message, State, #data{requests = Requests} = Data) ->
    case gen_server:check_response(Message, Requests, true) of
        {{reply, Reply}, {attach, _} = Label, Rest} ->
            %% Parts that have come before are of the session that was attached before.
            step({answer, Label, Reply}, State, Data#data{requests = Rest, parts = undefined});
        {{reply, Reply}, Label, Rest} ->
            step({answer, Label, Reply}, State, Data#data{requests = Rest});
        {{error, _}, Label, Rest} ->
            step({no_answer, Label}, State, Data#data{requests = Rest});
        _ ->
            keep_state_and_data
    end.

parts(#data{parts = undefined}) -> esdb_gater_parts:new();
parts(#data{parts = Parts}) -> Parts.

%%% Time-outs that go on in every state

tick() -> {{timeout, tick}, ?TICK_MS, tick}.

forget() -> {{timeout, forget}, ?FORGET_MS, forget}.

%% Without a gateway nothing is offered, whether or not it should be.
forget_faded(attached) -> esdb_gater_desired:forget_faded();
forget_faded(_State) -> ok.

%% Looked at now and then: what should be registered and is not, and the other way round.
reassert(State, Data) ->
    Missing = [{Store, Pid} || {Store, Pid} <- esdb_gater_desired:active(),
                               not esdb_gater_workers:member(Store, Pid)],
    {keep_state, Done, Transition} =
        step({reassert, Missing}, State, monitor_desired(Data)),
    {keep_state, Done, [reassert_in(reassert_pause()) | Transition]}.

reassert_in(Milliseconds) -> {{timeout, reassert}, Milliseconds, reassert}.

%% Many nodes that were started together do not ask together.
reassert_pause() -> ?REASSERT_MS * 3 div 4 + rand:uniform(?REASSERT_MS div 2).

%%% Actions

%% Returns the actions that are gen_statem's.
-spec perform([esdb_gater_link_core:action()], #data{}) -> {[gen_statem:action()], #data{}}.
perform(Actions, Data) ->
    {Transitions, Done} = lists:mapfoldl(fun perform_one/2, Data, Actions),
    {lists:append(Transitions), Done}.

perform_one({state_timeout, Milliseconds}, Data) ->
    {[{state_timeout, Milliseconds, timeout}], Data};
%% Random 50 to 100 percent, so that many nodes that lost the same gateway do not come back
%% together.
perform_one({backoff, AtMost}, Data) ->
    {[{{timeout, connect}, AtMost - rand:uniform(AtMost div 2 + 1) + 1, connect}], Data};
perform_one(cancel_backoff, Data) ->
    {[{{timeout, connect}, cancel}], Data};
perform_one(reassert_soon, Data) ->
    {[reassert_in(?REASSERT_SOON_MS + rand:uniform(?REASSERT_SOON_MS))], Data};
perform_one({timer, Name, Milliseconds}, Data) ->
    {[{{timeout, Name}, Milliseconds, expire}], Data};
perform_one({cancel, Name}, Data) ->
    {[{{timeout, Name}, cancel}], Data};
perform_one(Action, Data) ->
    {[], carry_out(Action, Data)}.

carry_out({connect, Node}, Data) ->
    Data#data{connector = esdb_gater_link:connector(Node)};
carry_out({connect_home, Node}, Data) ->
    Data#data{home = esdb_gater_link:connector(Node)};
carry_out({watch, Node}, #data{silence_ms = Silence} = Data) ->
    Data#data{session = erlang:monitor(process, esdb_gater_transport:address(?SESSION, Node)),
              heartbeat = esdb_gater_heartbeat:start_link(Node, Silence)};
carry_out({attach, Attempt}, Data) ->
    request(?SESSION, {attach, ?PROTOCOL, self(), #{parts => true}}, {attach, Attempt},
            Data#data{parts = undefined});
carry_out({request, Request, Label}, Data) ->
    request(?REGISTRY, Request, Label, Data);
carry_out({close, Node, Connection}, #data{session = Session} = Data) ->
    ok = esdb_gater_shared_state:unset(gateway),
    _ = Session =/= undefined andalso erlang:demonitor(Session, [flush]),
    ok = stop_connector(Data#data.connector),
    ok = esdb_gater_heartbeat:stop(Data#data.heartbeat),
    _ = Connection =:= cut andalso esdb_gater_transport:disconnect(Node),
    Data#data{session = undefined, connector = undefined, heartbeat = undefined,
              requests = gen_server:reqids_new(), parts = undefined, events = []};
carry_out({take_leave, Node}, Data) ->
    ok = tell_followers({former, Node}, Data),
    ok = take_leave(Node, self()),
    Data;
carry_out({gateway_lost, Node}, Data) ->
    ok = esdb_gater_embedded:gateway_lost(Node),
    Data;
carry_out({reply, From, Answer}, Data) ->
    ok = gen_statem:reply(From, Answer),
    Data;
carry_out({follow, Pid, News}, #data{followers = Followers} = Data) ->
    _ = Pid ! {esdb_gater_link, News},
    case Followers of
        #{Pid := _} -> Data;
        _ -> Data#data{followers = Followers#{Pid => erlang:monitor(process, Pid)}}
    end;
carry_out({tell_followers, News}, Data) ->
    ok = tell_followers(News, Data),
    Data;
carry_out({share, Name, Value}, Data) ->
    ok = esdb_gater_shared_state:set(Name, Value),
    Data;
carry_out(settle, #data{unconfirmed = Unconfirmed} = Data) ->
    ok = esdb_gater_mirror:settle(Unconfirmed),
    Data#data{unconfirmed = #{}};
carry_out({mirror, Change, Store, Pid}, #data{unconfirmed = Unconfirmed} = Data) ->
    Data#data{unconfirmed = esdb_gater_mirror:Change(Store, Pid, Unconfirmed)};
carry_out(send_withdrawals, Data) ->
    lists:foldl(fun({Store, Pid}, Acc) ->
                    request(?REGISTRY, {unregister, Store, Pid}, {withdrawn, Store, Pid}, Acc)
                end, Data, esdb_gater_withdrawals:all());
carry_out({withdraw, Store, Pid, From}, Data) ->
    Answer = withdraw(Store, Pid),
    _ = From =/= none andalso gen_statem:reply(From, Answer),
    Data;
carry_out(send_secret, Data) ->
    send_secret(attached, none, Data);
carry_out(tell_events, Data) ->
    tell_events(attached, none, Data);
carry_out({report, Report}, Data) ->
    ok = report(Report),
    Data;
carry_out({Fate, Store, Pid}, Data) ->
    registration(Fate, Store, Pid, Data).

%% What became of a registration.
registration(registered, Store, Pid, Data) ->
    ok = esdb_gater_withdrawals:remove(Store, Pid),
    ok = esdb_gater_desired:add(Store, Pid),
    monitor_pid(Pid, Data);
registration(asserted, Store, Pid, Data) ->
    registration(offered, Store, Pid, registration(registered, Store, Pid, Data));
registration(offered, Store, Pid, Data) ->
    _ = esdb_gater_workers:add(Store, Pid),
    Data;
registration(unregistered, Store, Pid, Data) ->
    ok = esdb_gater_desired:remove(Store, Pid),
    Data;
registration(withdrawn, Store, Pid, Data) ->
    ok = esdb_gater_withdrawals:remove(Store, Pid),
    Data;
registration(repeated, Store, Pid, Data) ->
    ok = esdb_gater_mirror:repeated(Store, Pid),
    Data;
registration(gone, Store, Pid, Data) ->
    ok = esdb_gater_desired:remove(Store, Pid),
    _ = esdb_gater_workers:remove(Store, Pid),
    Data;
registration(undo, Store, Pid, Data) ->
    case esdb_gater_desired:member(Store, Pid) of
        true -> Data;
        false -> request(?REGISTRY, {unregister, Store, Pid}, ignored, Data)
    end.

%% Gone here, and at the gateway as soon as there is one.
withdraw(Store, Pid) ->
    case esdb_gater_withdrawals:add(Store, Pid) of
        ok ->
            ok = esdb_gater_desired:remove(Store, Pid),
            _ = esdb_gater_workers:remove(Store, Pid),
            ok;
        {error, _} = Error ->
            Error
    end.

stop_connector(undefined) -> ok;
stop_connector({Pid, Ref}) ->
    true = erlang:demonitor(Ref, [flush]),
    true = exit(Pid, kill),
    ok.

%% Ends the session of this process with a departed gateway; `{left, Node}' says when that is done.
take_leave(Node, Link) ->
    _ = spawn(fun() ->
                  _ = try gen_server:call(esdb_gater_transport:address(?SESSION, Node),
                                           {detach, Link}, ?LEAVE_TIMEOUT_MS)
                      catch exit:_ -> ok
                      end,
                  Link ! {left, Node}
              end),
    ok.

tell_followers(News, #data{followers = Followers}) ->
    maps:foreach(fun(Pid, _) -> Pid ! {esdb_gater_link, News} end, Followers).

monitor_desired(Data) ->
    lists:foldl(fun monitor_pid/2, Data, esdb_gater_desired:processes()).

monitor_pid(Pid, #data{monitors = Monitors} = Data) ->
    case Monitors of
        #{Pid := _} -> Data;
        _ -> Data#data{monitors = Monitors#{Pid => erlang:monitor(process, Pid)}}
    end.

request(Name, Request, Label, #data{core = Core, requests = Requests} = Data) ->
    To = esdb_gater_transport:address(Name, esdb_gater_link_core:gateway(Core)),
    Data#data{requests = gen_server:send_request(To, Request, Label, Requests)}.

tell_events(State, From, #data{events = Known} = Data) ->
    case esdb_gater_telemetry:gateway_events() of
        Events when State =:= attached, Events =/= Known ->
            request(?SESSION, {events, self(), Events}, {told, From}, Data#data{events = Events});
        _ ->
            answer_told(From, Data)
    end.

send_secret(State, From, Data) ->
    case esdb_gater_shared_state:get(push_secret) =:= {ok, true} andalso State =:= attached of
        true ->
            request(?SESSION, {set_secret, esdb_pubsub_security:get_secret()}, {told, From}, Data);
        false ->
            answer_told(From, Data)
    end.

answer_told(none, Data) -> Data;
answer_told(From, Data) -> ok = gen_statem:reply(From, ok), Data.

%%% The log

%% Whoever read that there was none reads that there is one.
report({attached, Node, AfterWarning}) ->
    Level = case AfterWarning of true -> notice; false -> info end,
    ?LOG(Level, "erl_esdb_gater: attached to gateway ~ts", [Node],
         #{application => erl_esdb_gater});
report({lost, Node, Reason}) ->
    ?LOG_WARNING("erl_esdb_gater: gateway ~ts is lost (~tp)", [Node, Reason],
                 #{application => erl_esdb_gater});
report({unreachable, Gateways, Reason}) ->
    ?LOG_WARNING("erl_esdb_gater: no connection to the gateway: none of ~0tp can be used (~ts); "
                 "trying again until one answers", [Gateways, advice(Reason)],
                 #{application => erl_esdb_gater});
report({refused, Node, Answer}) ->
    ?LOG_ERROR("erl_esdb_gater: gateway ~ts refuses the session: ~tp", [Node, Answer],
               #{application => erl_esdb_gater});
report({missed, From, To}) ->
    ?LOG_NOTICE("erl_esdb_gater: changes ~b to ~b of the registry were missed; attaching anew",
                [From, To], #{application => erl_esdb_gater});
report({moving, Node, Home}) ->
    ?LOG_INFO("erl_esdb_gater: going over from gateway ~ts to ~ts on this host", [Node, Home],
              #{application => erl_esdb_gater}).

advice(Reason) -> advice(Reason, esdb_gater_transport:kind()).

advice(nameless, _Kind) ->
    "this node has no name; start it with -name";
advice(unreachable, piped) ->
    "the program that this node without a name has started is not open at its pipes; check that it "
    "runs, and what it has logged";
advice(no_answer, piped) ->
    "the program that this node without a name has started does not answer over its pipes; its log "
    "says why";
advice(unreachable, distribution) ->
    "check that it runs, and its name, cookie and EPMD";
advice(no_answer, distribution) ->
    "it is connected and gives no session; its log says why";
advice(Reason, _Kind) ->
    io_lib:format("~0tp", [Reason]).
