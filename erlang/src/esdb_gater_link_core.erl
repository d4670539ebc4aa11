%%% @private
%%% @doc What the link to a gateway does, decided without doing it.
%%%
%%% {@link esdb_gater_link_process} tells this module each event and carries out the actions that
%%% it returns, in their order. Nothing here sends, waits, or reads a clock, a table or random bytes:
%%% what is read is part of the event. So each transition can be tested by itself.
%%%
%%% The states:
%%% <dl>
%%% <dt>`idle'</dt><dd>There is no gateway to try, or the pause before the next round lasts.</dd>
%%% <dt>`connecting'</dt><dd>A gateway is being connected to.</dd>
%%% <dt>`attaching'</dt><dd>A session was asked for; its answer or the registry has not come.</dd>
%%% <dt>`restoring'</dt><dd>Registrations and subscriptions are being repeated. Whatever takes
%%%     longer than a second, such as a subscriber on a node that cannot be reached, continues in
%%%     the background.</dd>
%%% <dt>`attached'</dt><dd>The gateway serves.</dd>
%%% </dl>
%%% Registrations that come in any state but the last are kept and sent when it is reached, with
%%% the time limits of their callers.
%%%
%%% Messages of a session carry a revision that grows by one; a gap means that something was
%%% missed, and the session is attached anew.
%%% @end
-module(esdb_gater_link_core).

-export([new/1, handle/3, enter/2, gateway/1, source/1, status/2]).

-export_type([core/0, options/0, state/0, event/0, action/0, label/0, timer/0, report/0]).

-type options() :: #{mode := embedded | named, gateways => [node()]}.
-type state() :: idle | connecting | attaching | restoring | attached.
-type from() :: gen_statem:from() | none.
-type pairs() :: [{StoreId :: atom(), pid()}].

-type event() ::
    start                                       % nothing is known of gateways but the options
  | {start, {embedded, node()} | {members, [node()]}}   % known from before a crash
  | connect                                     % the pause is over
  | {connected, boolean() | ignored | term()}
  | timeout                                     % the state has lasted as long as it may
  | {lost, Reason :: term()}                    % the gateway's session service has ended
  | {embedded_up, node()} | embedded_down | out_of_reach
  | {registry, Revision :: integer(), Missing :: pairs(), HasUnconfirmed :: boolean()}
  | {change, added | removed, Revision :: integer(), StoreId :: atom(), pid()}
  | settle
  | {members, term()} | {home_reached, term()}
  | {node_up, node()} | {left, node()}
  | {follow, pid()} | {follower_ended, pid()} | {relay_restored, node(), pid()}
  | {carry, esdb_gater_pending:kind(), StoreId :: atom(), pid(), from()}
  | {assert, StoreId :: atom(), pid()}
  | {reassert, Missing :: pairs()}
  | {await, esdb_gater_waiters:what(), Milliseconds :: non_neg_integer(), gen_statem:from()}
  | {answer, label(), term()} | {no_answer, label()}
  | {expire, timer()}.

-type label() ::
    {attach, Attempt :: pos_integer()}
  | {carried, esdb_gater_pending:id(), esdb_gater_pending:kind(), StoreId :: atom(), pid()}
  | {restored, Attempt :: pos_integer() | none, StoreId :: atom(), pid()}
  | {withdrawn, StoreId :: atom(), pid()}
  | {told, from()}
  | ignored.
%% What an answer of the gateway is an answer to.

-type timer() :: settle | {request, esdb_gater_pending:id()} | {waiter, gen_statem:from()}.

-type action() ::
    {connect, node()}                           % ends with the event `connected'
  | {watch, node()}                             % its session service and its signs of life
  | {attach, Attempt :: pos_integer()}
  | {request, StoreRequest :: tuple(), label()} % to the registry of the gateway
  | {close, node(), cut | keep}                 % forget the gateway; `cut' its connection
  | {take_leave, node()}                        % ends with the event `left'
  | {connect_home, node()}                      % ends with the event `home_reached'
  | {gateway_lost, node()}                      % tell the choice of the embedded gateway
  | {state_timeout, Milliseconds :: pos_integer()}
  | {backoff, AtMostMs :: pos_integer()}        % ends with the event `connect'
  | cancel_backoff
  | reassert_soon
  | {timer, timer(), Milliseconds :: non_neg_integer()} | {cancel, timer()}
  | {reply, gen_statem:from(), term()}
  | {follow, pid(), news()} | {tell_followers, news()}
  | {share, gateway | mirror | channels | gateways, term()}
  | {registered | unregistered | asserted | withdrawn | repeated | gone | offered | undo,
     StoreId :: atom(), pid()}                  % what became of a registration
  | {withdraw, StoreId :: atom(), pid(), from()}
  | {mirror, added | removed, StoreId :: atom(), pid()}
  | settle | send_withdrawals | send_secret | tell_events
  | {report, report()}.

-type news() :: {up, node()} | down | {former, node()}.

-type report() ::
    {attached, node(), FirstSinceWarning :: boolean()}
  | {lost, node(), Reason :: term()}
  | {unreachable, [node()], Reason :: term()}
  | {refused, node(), Answer :: term()}
  | {missed, From :: integer(), To :: integer()}
  | {moving, node(), Home :: node()}.

-record(core, {
    mode :: embedded | named,
    gateways :: esdb_gater_gateways:gateways(),
    node :: node() | undefined,             % the gateway; in all states but `idle'
    attempt = 0 :: non_neg_integer(),       % grows by one with each attach
    restoring = 0 :: non_neg_integer(),     % registrations of this attempt not yet answered
    followers = #{} :: #{pid() => []},
    relays = #{} :: #{pid() => []},         % followers that have not yet subscribed again
    revision :: integer() | undefined,      % of the last message; undefined before the registry
    info :: map() | undefined,              % the answer to attach
    settled = false :: boolean(),           % this gateway knows all workers that there are
    out_of_reach = false :: boolean(),      % no gateway was reached when each was tried last
    warned = false :: boolean(),            % of that, since the last gateway
    home :: node() | undefined,             % a gateway on this host that is being connected to
    pending = esdb_gater_pending:new() :: esdb_gater_pending:pending(),
    waiters = esdb_gater_waiters:new() :: esdb_gater_waiters:waiters(),
    departed = esdb_gater_departed:new() :: esdb_gater_departed:departed()
}).

-opaque core() :: #core{}.

-type step() :: {keep | {enter, state()}, [action()], core()}.

-define(CONNECT_TIMEOUT_MS, 1000).      % while there is another gateway to try
-define(STATE_TIMEOUT_MS, 10000).       % to connect otherwise, and to attach
-define(RESTORE_TIMEOUT_MS, 1000).      % that calls wait for what is being restored
-define(SETTLE_MS, 3000).               % until a worker that the next gateway does not know goes
-define(REQUEST_TIMEOUT_MS, 5000).      % that a registration waits for a gateway

-define(IS_CONNECTED(State),
        (State =:= attaching orelse State =:= restoring orelse State =:= attached)).

%% @doc Returns a link that is `idle'.
-spec new(options()) -> core().
new(#{mode := Mode} = Options) ->
    #core{mode = Mode, gateways = esdb_gater_gateways:new(maps:get(gateways, Options, []))}.

%% @doc Returns the gateway that is in use or tried, in all states but `idle'.
-spec gateway(core()) -> node() | undefined.
gateway(#core{node = Node}) -> Node.

%% @doc Whether the registry that comes next is that of a gateway whose registry was received and
%% settled before.
-spec source(core()) -> same | other.
source(#core{settled = true}) -> same;
source(#core{settled = false}) -> other.

%% @doc Returns what people want to know of the link.
-spec status(state(), core()) -> map().
status(State, Core) ->
    #{phase => State, gateway => Core#core.node,
      gateways => esdb_gater_gateways:to_list(Core#core.gateways),
      rev => Core#core.revision, info => Core#core.info,
      followers => map_size(Core#core.followers),
      pending => esdb_gater_pending:size(Core#core.pending)}.

%% @doc Returns what is to be done on entering a state, before any other event.
-spec enter(state(), core()) -> {[action()], core()}.
enter(idle, Core) ->
    {[], Core};
enter(connecting, #core{node = Node, gateways = Gateways} = Core) ->
    Timeout = case esdb_gater_gateways:others(Node, Gateways) of
                  true -> ?CONNECT_TIMEOUT_MS;
                  false -> ?STATE_TIMEOUT_MS
              end,
    {[cancel_backoff, {connect, Node}, {state_timeout, Timeout}], Core};
enter(attaching, #core{attempt = Last} = Core) ->
    Attempt = Last + 1,
    {[{cancel, settle}, {attach, Attempt}, {state_timeout, ?STATE_TIMEOUT_MS}],
     Core#core{attempt = Attempt, revision = undefined, info = undefined, restoring = 0}};
enter(restoring, Core) ->
    {[{state_timeout, ?RESTORE_TIMEOUT_MS}], Core};
enter(attached, #core{node = Node, info = Info, pending = Pending, waiters = Waiters} = Core) ->
    Unsent = esdb_gater_pending:unsent(Pending),
    Served = Core#core{
               warned = false, out_of_reach = false,
               gateways = esdb_gater_gateways:succeeded(Node, Core#core.gateways),
               pending = lists:foldl(fun({Id, _, _, _}, Acc) -> esdb_gater_pending:sent(Id, Acc) end,
                                     Pending, Unsent)},
    {Answers, NoWaiters} = esdb_gater_waiters:wake(Node, Waiters),
    {Learnt, Knowing} = learn(maps:get(gateways, Info, []), Served#core{waiters = NoWaiters}),
    {Home, Looking} = look_home(Knowing),
    %% What was taken back goes first: it may have been registered again since.
    {[{report, {attached, Node, Core#core.warned}}, {share, channels, maps:get(channels, Info, #{})},
      send_secret, tell_events, send_withdrawals]
     ++ [carry(Id, Kind, Store, Pid) || {Id, Kind, Store, Pid} <- Unsent]
     ++ [{share, mirror, ready}, {share, gateway, Node}]
     ++ lists:flatmap(fun waiter_answer/1, Answers)
     ++ Learnt ++ Home, Looking}.

%% @doc Returns the state to enter, if another or the same one is to be entered, and what is to be
%% done before.
-spec handle(state(), event(), core()) -> step().

%%% Gateways come and go

handle(idle, start, Core) ->
    connect(idle, [], Core);
handle(idle, {start, {embedded, Node}}, Core) ->
    connect(idle, [], only(Node, Core));
handle(idle, {start, {members, Members}}, Core) ->
    {Learnt, Knowing} = learn(Members, Core),
    connect(idle, Learnt, Knowing);
handle(idle, connect, Core) ->
    connect(idle, [], Core);
handle(connecting, {connected, true}, #core{node = Node, departed = Departed} = Core) ->
    {{enter, attaching}, [{tell_followers, {up, Node}}, {watch, Node}],
     Core#core{departed = esdb_gater_departed:remove(Node, Departed), settled = false,
               relays = Core#core.followers}};
handle(connecting, {connected, ignored}, Core) ->
    reconnect(connecting, nameless, Core);
handle(connecting, {connected, _Failure}, Core) ->
    reconnect(connecting, unreachable, Core);
handle(connecting, timeout, Core) ->
    reconnect(connecting, unreachable, Core);
handle(attaching, timeout, Core) ->
    reconnect(attaching, no_answer, Core);
handle(restoring, timeout, Core) ->
    {{enter, attached}, [], Core};
handle(State, {lost, Reason}, Core) when ?IS_CONNECTED(State) ->
    reconnect(State, Reason, Core);
handle(State, {embedded_up, Node}, #core{mode = embedded, node = Node} = Core) when State =/= idle ->
    {keep, [], Core};
handle(State, {embedded_up, Node}, #core{mode = embedded} = Core) ->
    {Lost, Free} = lost(State, superseded, Core),
    connect(State, Lost, only(Node, Free));
handle(State, embedded_down, #core{mode = embedded} = Core) ->
    {Lost, Free} = lost(State, embedded_down, Core),
    {to_idle(State), Lost ++ [cancel_backoff],
     Free#core{gateways = esdb_gater_gateways:new([])}};
handle(_State, out_of_reach, Core) ->
    {Answers, Out} = out_of_reach(Core),
    {keep, Answers, Out};
handle(State, {members, Members}, Core) ->
    {Learnt, Knowing} = learn(Members, Core),
    {Home, Looking} = look_home(State, Knowing),
    {keep, Learnt ++ Home, Looking};
handle(attached, {home_reached, true}, #core{node = Node, gateways = Gateways} = Core) ->
    Arrived = Core#core{home = undefined},
    case esdb_gater_gateways:home(Node, Gateways) of
        {ok, Home} ->
            {Lost, Free} = lost(attached, moved, Arrived),
            connect(attached, [{report, {moving, Node, Home}}] ++ Lost ++ [{take_leave, Node}],
                    Free#core{gateways = esdb_gater_gateways:succeeded(Home, Gateways)});
        none ->
            {keep, [], Arrived}
    end;
handle(_State, {home_reached, _Result}, Core) ->
    {keep, [], Core#core{home = undefined}};
handle(_State, {node_up, Node}, #core{node = Current, departed = Departed} = Core)
  when Node =/= Current ->
    {keep, [{take_leave, Node} || esdb_gater_departed:member(Node, Departed)], Core};
handle(State, {left, Node}, #core{departed = Departed} = Core) ->
    Left = Core#core{departed = esdb_gater_departed:remove(Node, Departed)},
    %% What it has sent until now may have been taken for a message of the gateway in use.
    case ?IS_CONNECTED(State) of
        true -> {{enter, attaching}, [], Left};
        false -> {keep, [], Left}
    end;

%%% The session

handle(State, {answer, {attach, Attempt}, Answer}, #core{attempt = Attempt, node = Node} = Core)
  when ?IS_CONNECTED(State) ->
    case Answer of
        {ok, Info} when is_map(Info) ->
            advance(State, [], Core#core{info = Info});
        _ ->
            {Next, Actions, Lost} = reconnect(State, no_answer, Core),
            {Next, [{report, {refused, Node, Answer}} | Actions], Lost}
    end;
handle(State, {registry, Revision, Missing, HasUnconfirmed}, #core{attempt = Attempt} = Core)
  when ?IS_CONNECTED(State) ->
    Repeated = [{request, {reassert, Store, Pid}, {restored, Attempt, Store, Pid}}
                || {Store, Pid} <- Missing],
    advance(State, [{timer, settle, ?SETTLE_MS} || HasUnconfirmed] ++ Repeated,
            Core#core{revision = Revision, restoring = length(Missing), settled = not HasUnconfirmed});
handle(State, {change, Change, Revision, Store, Pid}, #core{revision = Last} = Core)
  when ?IS_CONNECTED(State), is_integer(Last) ->
    if
        Revision =:= Last + 1 ->
            {keep, [{mirror, Change, Store, Pid}], Core#core{revision = Revision}};
        Revision > Last + 1, State =/= attaching ->
            {{enter, attaching}, [{report, {missed, Last + 1, Revision - 1}}], Core};
        true ->
            {keep, [], Core}
    end;
handle(_State, settle, Core) ->
    {keep, [settle], Core#core{settled = true}};
handle(State, {follow, Pid}, #core{followers = Followers} = Core) ->
    {keep, [{follow, Pid, news(State, Core)}], Core#core{followers = Followers#{Pid => []}}};
handle(State, {follower_ended, Pid}, #core{followers = Followers} = Core) ->
    relay_restored(State, Pid, Core#core{followers = maps:remove(Pid, Followers)});
handle(State, {relay_restored, Node, Pid}, #core{node = Node} = Core) ->
    relay_restored(State, Pid, Core);

%%% Registrations

handle(State, {carry, unregister, Store, Pid, From}, Core) when State =/= attached ->
    {keep, [{withdraw, Store, Pid, From}], Core};
handle(State, {carry, Kind, Store, Pid, From}, #core{pending = Pending} = Core) ->
    {Id, Added} = esdb_gater_pending:add(Kind, Store, Pid, From, Pending),
    Timer = {timer, {request, Id}, ?REQUEST_TIMEOUT_MS},
    case State of
        attached -> {keep, [Timer, carry(Id, Kind, Store, Pid)],
                     Core#core{pending = esdb_gater_pending:sent(Id, Added)}};
        _ -> {keep, [Timer], Core#core{pending = Added}}
    end;
handle(State, {assert, Store, Pid}, Core) ->
    {keep, [{asserted, Store, Pid}
            | [{request, {register, Store, Pid}, {restored, none, Store, Pid}}
               || State =:= attached orelse State =:= restoring]], Core};
handle(attached, {reassert, Missing}, Core) ->
    {Home, Looking} = look_home(Core),
    {keep, [send_withdrawals]
           ++ [{request, {reassert, Store, Pid}, {restored, none, Store, Pid}}
               || {Store, Pid} <- Missing]
           ++ Home, Looking};
handle(State, {answer, {carried, Id, Kind, Store, Pid}, Answer}, Core) ->
    carried(State, Id, Kind, Store, Pid, Answer, Core);
handle(State, {answer, {restored, Attempt, Store, Pid}, Answer}, Core) ->
    Actions =
        case Answer of
            %% Until the registry has come, what the gateway offers is not heard.
            ok when Core#core.revision =:= undefined -> [];
            ok -> [{repeated, Store, Pid}];
            %% It has ended, or somebody has unregistered it while this node was away.
            {error, Gone} when Gone =:= noproc; Gone =:= badarg; Gone =:= unregistered ->
                [{gone, Store, Pid}];
            _ -> [reassert_soon]
        end,
    restored(State, Attempt, Actions, Core);
handle(_State, {answer, {withdrawn, Store, Pid}, ok}, Core) ->
    {keep, [{withdrawn, Store, Pid}], Core};
handle(_State, {answer, {withdrawn, _, _}, _Failure}, Core) ->
    {keep, [reassert_soon], Core};
handle(_State, {answer, {told, From}, _}, Core) ->
    {keep, reply(From, ok), Core};
%% The service is not there, or the connection is going: its monitor says so as well.
handle(State, {no_answer, {restored, Attempt, _, _}}, Core) ->
    restored(State, Attempt, [], Core);
handle(_State, {no_answer, {told, From}}, Core) ->
    {keep, reply(From, ok), Core};

%%% Callers that wait

handle(_State, {expire, {request, Id}}, #core{pending = Pending} = Core) ->
    case esdb_gater_pending:expire(Id, Pending) of
        {From, Store, Pid, Rest} ->
            {Undo, Decided} = undo_late(Store, Pid, Core#core{pending = Rest}),
            {keep, reply(From, {error, no_gateway}) ++ Undo, Decided};
        late ->
            {keep, [], Core}
    end;
handle(_State, {await, start, _, From}, #core{out_of_reach = true} = Core) ->
    {keep, [{reply, From, {error, no_gateway}}], Core};
handle(_State, {await, What, Milliseconds, From}, #core{waiters = Waiters} = Core) ->
    {keep, [{timer, {waiter, From}, Milliseconds}],
     Core#core{waiters = esdb_gater_waiters:add(What, From, Waiters)}};
handle(_State, {expire, {waiter, From}}, #core{waiters = Waiters} = Core) ->
    {Answers, Rest} = esdb_gater_waiters:expire(From, Waiters),
    {keep, lists:flatmap(fun waiter_answer/1, Answers), Core#core{waiters = Rest}};

%% An event that comes too late, or that this kind of link does not heed.
handle(_State, _Event, Core) ->
    {keep, [], Core}.

%%% Connecting

only(Node, Core) ->
    Core#core{gateways = esdb_gater_gateways:new([Node])}.

%% The gateway before was lost, or there was none.
connect(State, Actions, #core{gateways = Gateways} = Core) ->
    case esdb_gater_gateways:current(Gateways) of
        {ok, Node} -> {{enter, connecting}, Actions, Core#core{node = Node}};
        none -> {to_idle(State), Actions, Core}
    end.

to_idle(idle) -> keep;
to_idle(_State) -> {enter, idle}.

%% The next one at once, until all have failed; then after a pause.
reconnect(State, Reason, #core{node = Node, gateways = Gateways, mode = Mode} = Core) ->
    {Lost, Free} = lost(State, Reason, Core),
    Told = [{gateway_lost, Node} || Mode =:= embedded] ++ Lost,
    case esdb_gater_gateways:failed(Node, Gateways) of
        {0, Next} ->
            connect(State, Told, Free#core{gateways = Next});
        {PauseMs, Next} ->
            {Answers, Out} = out_of_reach(Free),
            {Warning, Warned} = warn(State, Reason, Out),
            {{enter, idle}, Told ++ Answers ++ Warning ++ [{backoff, PauseMs}],
             Warned#core{gateways = Next}}
    end.

%% Once per loss, when the first attempts have failed: they go on for as long as it takes.
warn(State, _Reason, #core{warned = Warned} = Core) when Warned; State =:= attached ->
    {[], Core};
warn(_State, Reason, #core{gateways = Gateways} = Core) ->
    {[{report, {unreachable, esdb_gater_gateways:to_list(Gateways), Reason}}],
     Core#core{warned = true}}.

%% Each has been tried.
out_of_reach(#core{waiters = Waiters} = Core) ->
    {Answers, Rest} = esdb_gater_waiters:give_up(Waiters),
    {lists:flatmap(fun waiter_answer/1, Answers), Core#core{out_of_reach = true, waiters = Rest}}.

%% There is no gateway any more. The mirror of the registry stays as it was: an old answer is
%% better than none.
lost(idle, _Reason, Core) ->
    {[], Core};
lost(State, Reason, #core{node = Node, pending = Pending, departed = Departed} = Core) ->
    %% Whether the gateway has carried them out does not matter: the next one is told.
    {Unregistrations, Registrations} = esdb_gater_pending:take_unregistrations(Pending),
    {[{report, {lost, Node, Reason}} || State =:= attached]
     ++ [{close, Node, connection(Reason)}]
     ++ [{tell_followers, down} || State =/= connecting]
     ++ lists:flatmap(fun({Id, Store, Pid, From}) ->
                          [{cancel, {request, Id}}, {withdraw, Store, Pid, From}]
                      end, Unregistrations),
     Core#core{departed = esdb_gater_departed:add(Node, Departed),
               pending = esdb_gater_pending:gateway_lost(Registrations),
               node = undefined, revision = undefined, info = undefined, restoring = 0,
               relays = #{}}}.

%% A gateway that does not answer, or that a newer one has replaced, must not be heard again
%% either: its messages would mix with those of the next.
connection(Reason) when Reason =:= no_answer; Reason =:= superseded; Reason =:= embedded_down -> cut;
connection(_Reason) -> keep.

%% Other gateways of the same cluster are as good as those of the configuration.
learn(Members, #core{mode = named, gateways = Gateways} = Core) when length(Members) > 0 ->
    case [Node || Node <- Members, is_atom(Node)] of
        [] -> {[], Core};
        Nodes -> {[{share, gateways, Nodes}],
                  Core#core{gateways = esdb_gater_gateways:learn(Nodes, Gateways)}}
    end;
learn(_Members, Core) ->
    {[], Core}.

look_home(attached, Core) -> look_home(Core);
look_home(_State, Core) -> {[], Core}.

%% A gateway on this host is better than another one.
look_home(#core{mode = named, node = Node, gateways = Gateways, home = undefined} = Core) ->
    case esdb_gater_gateways:home(Node, Gateways) of
        {ok, Home} -> {[{connect_home, Home}], Core#core{home = Home}};
        none -> {[], Core}
    end;
look_home(Core) ->
    {[], Core}.

%%% Restoring

%% Both the answer to attach and the registry are needed; either may come first.
advance(attaching, Actions, #core{revision = Revision, info = Info} = Core)
  when is_integer(Revision), is_map(Info) ->
    case is_restored(Core) of
        true -> {{enter, attached}, Actions, Core};
        false -> {{enter, restoring}, Actions, Core}
    end;
advance(restoring, Actions, Core) ->
    case is_restored(Core) of
        true -> {{enter, attached}, Actions, Core};
        false -> {keep, Actions, Core}
    end;
advance(_State, Actions, Core) ->
    {keep, Actions, Core}.

is_restored(#core{restoring = Left, relays = Relays}) ->
    Left =:= 0 andalso map_size(Relays) =:= 0.

restored(State, Attempt, Actions, #core{attempt = Attempt, restoring = Left} = Core) when Left > 0 ->
    advance(State, Actions, Core#core{restoring = Left - 1});
restored(_State, _Attempt, Actions, Core) ->
    {keep, Actions, Core}.

relay_restored(State, Pid, #core{relays = Relays} = Core) ->
    advance(State, [], Core#core{relays = maps:remove(Pid, Relays)}).

news(State, #core{node = Node}) when ?IS_CONNECTED(State) -> {up, Node};
news(_State, _Core) -> down.

%%% Registrations

carry(Id, Kind, Store, Pid) ->
    {request, {Kind, Store, Pid}, {carried, Id, Kind, Store, Pid}}.

carried(State, Id, Kind, Store, Pid, Answer, #core{pending = Pending} = Core) ->
    case esdb_gater_pending:take(Id, Pending) of
        {From, Rest} ->
            {Undo, Decided} = undo_late(Store, Pid, Core#core{pending = Rest}),
            {keep, [{cancel, {request, Id}} | done(State, Kind, Store, Pid, Answer)]
                   ++ reply(From, Answer) ++ Undo, Decided};
        late when Kind =:= register, Answer =:= ok ->
            Late = esdb_gater_pending:late(Store, Pid, Pending),
            {Undo, Decided} = undo_late(Store, Pid, Core#core{pending = Late}),
            {keep, Undo, Decided};
        late ->
            {keep, [], Core}
    end.

%% While a session is attached anew, its messages are not heard.
done(attaching, register, Store, Pid, ok) -> [{registered, Store, Pid}, {offered, Store, Pid}];
done(_State, register, Store, Pid, ok) -> [{registered, Store, Pid}];
done(_State, unregister, Store, Pid, ok) -> [{unregistered, Store, Pid}];
done(_State, _Kind, _Store, _Pid, _Error) -> [].

%% Its caller has been told that it failed. One that is desired was registered by another call.
%% When the gateway is lost before, it is as with any that it has not answered: nobody knows.
undo_late(Store, Pid, #core{pending = Pending, node = Node} = Core) ->
    {Decided, Rest} = esdb_gater_pending:take_late(Store, Pid, Pending),
    {[{undo, Store, Pid} || Decided andalso Node =/= undefined], Core#core{pending = Rest}}.

%%% Answers

reply(none, _Answer) -> [];
reply(From, Answer) -> [{reply, From, Answer}].

waiter_answer({From, Answer}) -> [{cancel, {waiter, From}}, {reply, From, Answer}].
