%%% @private
%%% @doc The relay of one channel on this node, registered under the channel's name.
%%%
%%% It subscribes once per topic at the gateway, however many processes of this node want the
%%% topic, and hands out what arrives; so one copy of a message crosses the wire per node. To
%%% the gateway it is a subscriber like any other. A process of a node that runs no relay is
%%% subscribed at the gateway under its own pid, and kept so by this relay.
%%%
%%% What it is subscribed to, for whom, and what becomes of it is decided by
%%% {@link esdb_gater_subscriptions}; this module turns messages into events and carries out the
%%% actions. It watches the subscribers, hands out what arrives and passes publications on.
%%%
%%% `{{Channel, Topic, Pid}, Stamp}' of all subscribers is kept in a table that outlives the process,
%%% so a crash costs what arrives meanwhile and no subscription.
%%% @end
-module(esdb_gater_relay).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

-export([start_link/1, find/1, channels/0, tables/0, topics/0, foreach_local/3]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(LINK, esdb_gater_worker_registry).
-define(TABLE, esdb_gater_subscribers).
-define(TOKENS, esdb_gater_subscription_tokens).
-define(RELAYS, esdb_gater_relays).
-define(RETRY, 1000).                   % ms until a refused subscription is asked for again
-define(FOLLOW, 50).                    % ms until a lost link is looked for again
-define(LOOK_AGAIN, 5000).              % ms until an unreachable subscriber is looked for again
-define(AT_ONCE, 64).                   % messages that are handed out together
-define(LOOKS, 12).                     % after so many, a minute as at the gateway, it is gone

-record(state, {
    channel :: atom(),
    subscriptions :: esdb_gater_subscriptions:subscriptions(),
    link :: reference() | undefined,        % monitor of the link
    requests = gen_server:reqids_new() :: gen_server:request_id_collection(),
    timers = #{} :: #{gen_server:from() => reference()},    % of callers that wait for a gateway
    watched = #{} :: #{pid() => {reference(), #{esdb_gater_subscriptions:key() => []}}},
    sought = #{} :: #{node() => #{pid() => reference()}}    % at nodes that are being connected to
}).

%% @doc Starts the relay of a channel.
-spec start_link(Channel :: atom()) -> {ok, pid()} | {error, term()}.
start_link(Channel) ->
    case gen_server:start_link({local, Channel}, ?MODULE, Channel, []) of
        %% A supervisor of OTP 27 reports this as if the child ran already.
        {error, {already_started, _}} -> {error, {name_in_use, Channel}};
        Started -> Started
    end.

%% @doc The relay of a channel on this node. The process that has the channel's name may be
%% another one.
-spec find(Channel :: atom()) -> {ok, pid()} | none.
find(Channel) ->
    try ets:lookup(?RELAYS, Channel) of
        [{_, Relay}] ->
            case is_process_alive(Relay) of
                true -> {ok, Relay};
                false -> none
            end;
        [] ->
            none
    catch
        error:badarg -> none                       % the application is not running
    end.

%% @doc The channels that processes of this node have subscribed to.
-spec channels() -> [atom()].
channels() ->
    lists:usort(ets:select(?TABLE, [{{{'$1', '_', '_'}, '_'}, [], ['$1']}])).

%% @doc The tables to make, as arguments of `ets:new/2'.
-spec tables() -> [{atom(), [term()]}].
tables() ->
    [{?TABLE, [ordered_set, public, named_table]},
     {?TOKENS, [set, public, named_table]},
     {?RELAYS, [set, public, named_table, {read_concurrency, true}]}].

%% @doc The topics that have subscribers on this node.
-spec topics() -> [{Channel :: atom(), Topic :: binary()}].
topics() ->
    lists:usort([{Channel, Topic} || {{Channel, Topic, Pid}} <- ets:tab2list(?TABLE),
                                     node(Pid) =:= node()]).

%% @doc Calls a function with each process that the relay hands out a topic to.
-spec foreach_local(Channel :: atom(), Topic :: binary(), fun((pid()) -> term())) -> ok.
foreach_local(Channel, Topic, Fun) ->
    next_local(ets:next(?TABLE, {Channel, Topic, 0}), Channel, Topic, Fun).

next_local({Channel, Topic, Pid} = Key, Channel, Topic, Fun) ->
    _ = node(Pid) =:= node() andalso not ets:member(?TOKENS, Key) andalso Fun(Pid),
    next_local(ets:next(?TABLE, Key), Channel, Topic, Fun);
next_local(_, _Channel, _Topic, _Fun) ->
    ok.

%%% The process

-spec init(atom()) -> {ok, #state{}}.
init(Channel) ->
    true = ets:insert(?RELAYS, {Channel, self()}),
    {Exactly, Guards} = esdb_gater_match:exactly(Channel, '$4'),
    Kept = [{Topic, Pid, Stamp, token(Channel, Topic, Pid)}
            || {Topic, Pid, Stamp} <- ets:select(?TABLE, [{{{Exactly, '$1', '$2'}, '$3'}, Guards,
                                                           [{{'$1', '$2', '$3'}}]}])],
    {Actions, Subscriptions} = esdb_gater_subscriptions:new(self(), Kept),
    %% Until all of them are known again, publishers of this node see what was before.
    State = perform([Action || Action <- Actions, element(1, Action) =/= local_changed],
                    #state{channel = Channel, subscriptions = Subscriptions}),
    Topics = maps:from_list([{Topic, Pids}
                             || {Topic, _, _, _} <- Kept,
                                Pids <- [esdb_gater_subscriptions:recipients(Topic, Subscriptions)],
                                map_size(Pids) > 0]),
    ok = esdb_gater_local:kept(Channel, Topics),
    maps:foreach(fun(Topic, Pids) -> ok = esdb_gater_local:changed(Channel, Topic, Pids) end, Topics),
    {ok, follow(State)}.

token(Channel, Topic, Pid) ->
    case ets:lookup(?TOKENS, {Channel, Topic, Pid}) of
        [{_, Token}] -> Token;
        [] -> none
    end.

-spec handle_call(term(), gen_server:from(), #state{}) ->
          {reply, term(), #state{}} | {noreply, #state{}}.
handle_call({subscribe, Topic, Pid}, From, State) when is_pid(Pid) ->
    subscribe(Topic, Pid, none, From, State);
handle_call({subscribe, Topic, Pid, Token}, From, State) when is_pid(Pid), is_binary(Token) ->
    subscribe(Topic, Pid, Token, From, State);
handle_call(Subscribe, _From, State) when element(1, Subscribe) =:= subscribe ->
    {reply, {error, badarg}, State};
handle_call({unsubscribe, Topic, Pid}, From, State) when is_pid(Pid) ->
    case esdb_gater_bounds:topic(Topic) of
        ok -> {noreply, step({unsubscribe, Topic, Pid, From}, State)};
        {error, _} = Error -> {reply, Error, State}
    end;
handle_call({unsubscribe, _, _}, _From, State) ->
    {reply, {error, badarg}, State};
handle_call(Publish, From, State) when element(1, Publish) =:= publish ->
    publish(gateway(State), Publish, From, State);
handle_call({get_local_subscribers, Topic}, _From, State) ->
    {reply, {self(), local_subscribers(Topic, State)}, State};
handle_call({get_subscribers, Topic}, _From, State) ->
    {reply, local_subscribers(Topic, State), State};
handle_call(Request, _From, State) ->
    {reply, {error, {unknown_request, Request}}, State}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast({subscribe, Topic, Pid}, State) when is_pid(Pid) ->
    case esdb_gater_bounds:topic(Topic) of
        ok -> {noreply, step({subscribe, Topic, Pid}, State)};
        {error, _} -> {noreply, State}
    end;
handle_cast({unsubscribe, Topic, Pid}, State) when is_pid(Pid) ->
    case esdb_gater_bounds:topic(Topic) of
        ok -> {noreply, step({unsubscribe, Topic, Pid, none}, State)};
        {error, _} -> {noreply, State}
    end;
handle_cast(Publish, State)
  when element(1, Publish) =:= publish, tuple_size(Publish) >= 3, tuple_size(Publish) =< 4 ->
    ok = publish(gateway(State), Publish, State),
    {noreply, State};
handle_cast(_Message, State) ->
    {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info({channel_message, Channel, _, _} = Message, #state{channel = Channel} = State) ->
    {noreply, hand_out([Message | more(Channel, ?AT_ONCE - 1)], State)};
handle_info({esdb_gater_ended, Topic, Pid, Stamp}, State)
  when is_binary(Topic), is_pid(Pid), is_integer(Stamp) ->
    {noreply, step({ended, Topic, Pid, Stamp}, State)};
handle_info({esdb_gater_link, {up, Node}}, State) ->
    {noreply, step({up, Node}, forget_requests(State))};
handle_info({esdb_gater_link, {former, Node}}, State) ->
    {noreply, step({former, Node}, State)};
handle_info({esdb_gater_link, down}, State) ->
    {noreply, step(down, forget_requests(State))};
handle_info({'DOWN', Ref, process, _, _}, #state{link = Ref} = State) ->
    {noreply, follow(step(down, forget_requests(State)))};
handle_info({'DOWN', Ref, process, Pid, Reason} = Message, #state{watched = Watched} = State) ->
    case Watched of
        #{Pid := {Ref, _}} when Reason =:= noconnection ->
            ok = look_later(Pid, Ref, ?LOOKS - 1),
            {noreply, State};
        #{Pid := {Ref, _}} ->
            {noreply, process_gone(Pid, State)};
        _ ->
            {noreply, maybe_response(Message, State)}
    end;
handle_info({look_again, Pid, Ref, Looks}, #state{watched = Watched} = State) ->
    case Watched of
        #{Pid := {Ref, _}} -> {noreply, look_again(Pid, Ref, Looks, State)};
        _ -> {noreply, State}
    end;
handle_info({connected, Node, Answer}, #state{sought = Sought} = State) ->
    Pids = maps:get(Node, Sought, #{}),
    {noreply, found(Answer, Pids, State#state{sought = maps:remove(Node, Sought)})};
handle_info(follow, State) ->
    {noreply, follow(State)};
handle_info(retry, State) ->
    {noreply, step(retry, State)};
handle_info({expire, Key, From}, #state{timers = Timers} = State) ->
    {noreply, step({expire, Key, From}, State#state{timers = maps:remove(From, Timers)})};
handle_info(Message, State) ->
    {noreply, maybe_response(Message, State)}.

%%% The link

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

%% Answers of a gateway that is gone do not count any more.
forget_requests(State) ->
    State#state{requests = gen_server:reqids_new()}.

gateway(#state{subscriptions = Subscriptions}) ->
    esdb_gater_subscriptions:gateway(Subscriptions).

%%% Subscriptions

subscribe(Topic, Pid, Token, From, State) ->
    case esdb_gater_bounds:topic(Topic) of
        ok ->
            IsHopeless = esdb_gater_link:is_hopeless(),
            {noreply, step({subscribe, Topic, Pid, Token, From, IsHopeless}, State)};
        {error, _} = Error ->
            {reply, Error, State}
    end.

-spec step(esdb_gater_subscriptions:event(), #state{}) -> #state{}.
step(Event, #state{subscriptions = Subscriptions} = State) ->
    {Actions, Next} = esdb_gater_subscriptions:handle(Event, Subscriptions),
    perform(Actions, State#state{subscriptions = Next}).

perform(Actions, State) ->
    lists:foldl(fun carry_out/2, State, Actions).

-spec carry_out(esdb_gater_subscriptions:action(), #state{}) -> #state{}.
carry_out({request, Request, Label}, State) ->
    request(Request, Label, State);
carry_out({tell, Message}, State) ->
    carry_out({tell, gateway(State), Message}, State);
carry_out({tell, Node, Message}, #state{channel = Channel} = State) ->
    ok = gen_server:cast(esdb_gater_transport:address(Channel, Node), Message),
    State;
carry_out({reply, From, Answer}, State) ->
    ok = gen_server:reply(From, Answer),
    State;
carry_out({await, Key, From, Milliseconds}, #state{timers = Timers} = State) ->
    Timer = erlang:send_after(Milliseconds, self(), {expire, Key, From}),
    State#state{timers = Timers#{From => Timer}};
carry_out({cancel, From}, #state{timers = Timers} = State) ->
    case maps:take(From, Timers) of
        {Timer, Others} -> _ = erlang:cancel_timer(Timer), State#state{timers = Others};
        error -> State
    end;
carry_out(retry_later, State) ->
    _ = erlang:send_after(?RETRY, self(), retry),
    State;
carry_out({replay, Pid, Topic, Message}, #state{channel = Channel} = State) ->
    _ = Pid ! {channel_message, Channel, Topic, Message},
    State;
carry_out({keep, Topic, Pid, Stamp, Token}, #state{channel = Channel} = State) ->
    true = ets:insert(?TABLE, {{Channel, Topic, Pid}, Stamp}),
    _ = Token =/= none andalso ets:insert(?TOKENS, {{Channel, Topic, Pid}, Token}),
    State;
carry_out({forget, Topic, Pid}, #state{channel = Channel} = State) ->
    true = ets:delete(?TABLE, {Channel, Topic, Pid}),
    true = ets:delete(?TOKENS, {Channel, Topic, Pid}),
    State;
carry_out({watch, Pid, Key}, State) ->
    watch(Pid, Key, State);
carry_out({unwatch, Pid, Key}, State) ->
    unwatch(Pid, Key, State);
carry_out({topic_changed, Target, Topic, IsSubscribed}, State) ->
    ok = esdb_gater_lineage:topic_changed(Target, Topic, IsSubscribed),
    State;
carry_out({local_changed, Topic, Pids}, #state{channel = Channel} = State) ->
    ok = esdb_gater_local:changed(Channel, Topic, Pids),
    State;
carry_out({restored, Node}, State) ->
    %% The link waits for this before it lets others use the gateway.
    ok = gen_server:cast(?LINK, {restored, Node, self()}),
    State;
carry_out({not_restored, {Topic, Pid}, Reason}, #state{channel = Channel} = State) ->
    ?LOG_WARNING("erl_esdb_gater: the subscription of ~tp to ~tp on ~ts has ended: its gateway was "
                 "lost, and the next one refuses its capability token (~ts); subscribe it again "
                 "with a new token", [Pid, Topic, Channel, Reason],
                 #{application => erl_esdb_gater}),
    State.

process_gone(Pid, #state{watched = Watched} = State) ->
    {{_, Keys}, Rest} = maps:take(Pid, Watched),
    step({gone, maps:keys(Keys), Pid}, State#state{watched = Rest}).

%%% Watching subscribers

watch(Pid, Key, #state{watched = Watched} = State) ->
    {Ref, Keys} = case Watched of
                      #{Pid := Known} -> Known;
                      _ -> {erlang:monitor(process, Pid), #{}}
                  end,
    State#state{watched = Watched#{Pid => {Ref, Keys#{Key => []}}}}.

unwatch(Pid, Key, #state{watched = Watched} = State) ->
    case Watched of
        #{Pid := {Ref, Keys}} ->
            case maps:remove(Key, Keys) of
                Left when map_size(Left) =:= 0 ->
                    true = erlang:demonitor(Ref, [flush]),
                    State#state{watched = maps:remove(Pid, Watched)};
                Left ->
                    State#state{watched = Watched#{Pid := {Ref, Left}}}
            end;
        _ ->
            State
    end.

%% Out of reach is not dead; the gateway may still reach it. Looks go on every few seconds,
%% whether or not the attempt to connect has ended. The monitor that ended tells whom a look
%% is for: one who was watched anew meanwhile has another.
look_later(Pid, Ref, Looks) ->
    _ = erlang:send_after(?LOOK_AGAIN, self(), {look_again, Pid, Ref, Looks}),
    ok.

look_again(Pid, _Ref, 0, State) ->
    process_gone(Pid, State);
look_again(Pid, Ref, Looks, #state{sought = Sought} = State) ->
    ok = look_later(Pid, Ref, Looks - 1),
    Node = node(Pid),
    Pids = case Sought of
               #{Node := Others} -> Others;
               _ -> ok = connect(Node), #{}
           end,
    State#state{sought = Sought#{Node => Pids#{Pid => Ref}}}.

%% It takes seconds if the host answers nothing, so a process of its own waits for it, one for each
%% node. It ends with the relay.
connect(Node) ->
    Relay = self(),
    _ = spawn_link(fun() -> Relay ! {connected, Node, connect_hidden(Node)} end),
    ok.

connect_hidden(Node) ->
    try net_kernel:hidden_connect_node(Node)
    catch exit:_ -> false
    end.

found(true, Pids, State) ->
    maps:fold(fun watch_again/3, State, Pids);
found(_, _Pids, State) ->
    State.

watch_again(Pid, Ended, #state{watched = Watched} = State) ->
    case Watched of
        #{Pid := {Ended, Keys}} ->
            Ref = erlang:monitor(process, Pid),
            State#state{watched = Watched#{Pid := {Ref, Keys}}};
        _ ->
            State
    end.

%%% Handing out

%% Messages that have come already. A subscriber that is woken for several of them takes them
%% in a fraction of the time that as many wake-ups would.
more(_Channel, 0) ->
    [];
more(Channel, Left) ->
    receive
        {channel_message, Channel, _, _} = Message -> [Message | more(Channel, Left - 1)]
    after 0 ->
        []
    end.

hand_out([{_, _, Topic, _} = Message], State) ->
    hand_out(Topic, [Message], State);
hand_out(Messages, State) ->
    ByTopic = maps:groups_from_list(fun({_, _, Topic, _}) -> Topic end, Messages),
    maps:fold(fun hand_out/3, State, ByTopic).

hand_out(Topic, Messages, #state{subscriptions = Subscriptions} = State) ->
    maps:foreach(fun(Pid, _) -> send_all(Pid, Messages) end,
                 esdb_gater_subscriptions:recipients(Topic, Subscriptions)),
    {_, _, _, Last} = lists:last(Messages),
    State#state{subscriptions = esdb_gater_subscriptions:remember(Topic, Last, Subscriptions)}.

send_all(Pid, [Message | Messages]) ->
    Pid ! Message,
    send_all(Pid, Messages);
send_all(_Pid, []) ->
    ok.

local_subscribers(Topic, #state{subscriptions = Subscriptions}) ->
    maps:keys(esdb_gater_subscriptions:recipients(Topic, Subscriptions)).

%%% Publishing for others

publish(undefined, _Publish, _From, State) ->
    {reply, {error, no_gateway}, State};
publish(_Node, Publish, From, State) when tuple_size(Publish) >= 3, tuple_size(Publish) =< 4 ->
    case esdb_gater_bounds:publish(Publish) of
        ok ->
            {Named, Local} = named(Publish, State),
            {noreply, request(Named, {pass, From, Local, Publish}, State)};
        {error, _} = Error ->
            {reply, Error, State}
    end;
publish(_Node, Request, _From, State) ->
    {reply, {error, {unknown_request, Request}}, State}.

%% Nobody waits for the answer.
publish(undefined, _Publish, _State) ->
    ok;
publish(Node, Publish, #state{channel = Channel} = State) ->
    case esdb_gater_bounds:publish(Publish) of
        ok ->
            {Named, Local} = named(Publish, State),
            gen_server:cast(esdb_gater_transport:address(Channel, Node), Named),
            publish_here(Local, Publish, State);
        {error, _} ->
            ok
    end.

%% The same way as by {@link esdb_gater_window}, so that the messages of a publisher that uses both
%% keep their order.
named(Publish, #state{channel = Channel} = State) ->
    case esdb_gater_window:is_local(Channel, gateway(State)) of
        true -> {setelement(1, Publish, publish_elsewhere), true};
        false -> {Publish, false}
    end.

publish_here(true, Publish, #state{channel = Channel}) ->
    esdb_gater_local:deliver(Channel, element(2, Publish), element(3, Publish));
publish_here(false, _Publish, _State) ->
    ok.

%%% Requests to the gateway

request(Request, Label, #state{channel = Channel, requests = Requests} = State) ->
    To = esdb_gater_transport:address(Channel, gateway(State)),
    State#state{requests = gen_server:send_request(To, Request, Label, Requests)}.

maybe_response(Message, #state{requests = Requests} = State) ->
    case gen_server:check_response(Message, Requests, true) of
        {{reply, Reply}, Label, Rest} ->
            response(Label, Reply, State#state{requests = Rest});
        {{error, {noproc, _}}, Label, Rest} ->
            response(Label, {error, unknown_channel}, State#state{requests = Rest});
        {{error, _}, Label, Rest} ->
            %% The connection is going; the link says so as well.
            lost(Label, State#state{requests = Rest});
        _ ->
            State
    end.

response({pass, From, Local, Publish}, Answer, State) ->
    _ = Answer =:= ok andalso publish_here(Local, Publish, State),
    gen_server:reply(From, Answer),
    State;
response(Label, Answer, State) ->
    step({answer, Label, Answer}, State).

lost({pass, From, _, _}, State) ->
    gen_server:reply(From, {error, no_gateway}),
    State;
lost(Label, State) ->
    step({no_answer, Label}, State).
