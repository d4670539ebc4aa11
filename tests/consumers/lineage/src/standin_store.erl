%% @doc The storage of a stand-in for an event store: a table in memory, and an answer to every
%% request that a store gets from the data API. Events that carry an `event_id' which is there
%% already are not appended again: the answer is that of the first time.
-module(standin_store).

-behaviour(gen_server).

-include_lib("erl_esdb_gater/include/esdb_gater.hrl").
-include_lib("erl_esdb_gater/include/esdb_gater_types.hrl").

-export([start_link/1, start/1, events/1]).
-export([init/1, handle_call/3, handle_cast/2]).

-record(state, {store :: atom(), table :: ets:table(), next = 0 :: non_neg_integer()}).

-spec start_link(atom()) -> {ok, pid()} | ignore | {error, term()}.
start_link(Store) -> gen_server:start_link(?MODULE, Store, []).

-spec start(atom()) -> {ok, pid()} | ignore | {error, term()}.
start(Store) -> gen_server:start(?MODULE, Store, []).

%% @doc All events, for whoever looks whether they are complete.
-spec events(pid()) -> [event()].
events(Storage) ->
    {ok, Events} = gen_server:call(Storage, {read_all_global, any, 0, 1000000}),
    Events.

-spec init(atom()) -> {ok, #state{}}.
init(Store) -> {ok, #state{store = Store, table = ets:new(store, [ordered_set])}}.

-spec handle_call(term(), gen_server:from(), #state{}) -> {reply, term(), #state{}}.
handle_call({append_events, S, Stream, Events}, From, State) ->
    handle_call({append_events, S, Stream, ?ANY_VERSION, Events}, From, State);
handle_call({append_events, _, Stream, Expected, Events}, _From, #state{table = Table} = State) ->
    Known = [Version || #{event_id := Id} <- Events,
                        {_, {event, _, Version}} <- ets:lookup(Table, {id, Id})],
    case {Known, version(Table, Stream)} of
        {[_ | _], _} -> {reply, {ok, lists:max(Known)}, State};
        {[], Version} ->
            case is_expected(Expected, Version) of
                true -> append(Stream, Version, Events, State);
                false -> {reply, {error, {wrong_expected_version, Version}}, State}
            end
    end;
handle_call(Request, _From, State) ->
    {reply, answer(Request, State), State}.

is_expected(?ANY_VERSION, _) -> true;
is_expected(?STREAM_EXISTS, Version) -> Version >= 0;
is_expected(Expected, Version) -> Expected =:= Version.

append(Stream, Version, Events, #state{table = Table, next = Next} = State) ->
    New = [event(Stream, Version + I, Event)
           || {I, Event} <- lists:zip(lists:seq(1, length(Events)), Events)],
    Numbered = lists:zip(lists:seq(Next, Next + length(New) - 1), New),
    lists:foreach(fun({Position, #event{version = V, event_id = Id} = Event}) ->
                      Key = {event, Stream, V},
                      true = ets:insert(Table, [{Key, Event}, {{global, Position}, Key},
                                                {{id, Id}, Key}])
                  end, Numbered),
    _ = [Pid ! {events, New} || {_, #subscription{subscriber_pid = Pid, selector = Selector}}
                                    <- ets:match_object(Table, {{subscription, '_'}, '_'}),
                                is_pid(Pid), Selector =:= Stream],
    {reply, {ok, Version + length(New)}, State#state{next = Next + length(New)}}.

event(Stream, Version, Given) ->
    Now = erlang:system_time(microsecond),
    Unique = integer_to_binary(erlang:unique_integer([positive])),
    #event{event_id = maps:get(event_id, Given, Unique),
           event_type = maps:get(event_type, Given, <<"event">>),
           stream_id = Stream, version = Version, data = maps:get(data, Given, #{}),
           metadata = maps:get(metadata, Given, #{}), tags = maps:get(tags, Given, []),
           timestamp = maps:get(timestamp, Given, Now div 1000), epoch_us = Now}.

%%% Reading

answer({get_events, _, Stream, Start, Count, Direction}, State) ->
    found(Stream, page(Stream, Start, Count, Direction, State), State);
answer({stream_forward, _, Stream, Start, Count}, State) ->
    found(Stream, page(Stream, Start, Count, forward, State), State);
answer({stream_backward, _, Stream, Start, Count}, State) ->
    found(Stream, page(Stream, Start, Count, backward, State), State);
%% A bare integer, as stores answer.
answer({get_version, _, Stream}, #state{table = Table}) ->
    version(Table, Stream);
answer({stream_info, _, Stream}, #state{table = Table} = State) ->
    found(Stream, #{stream_id => Stream, version => version(Table, Stream),
                    count => length(stream(Stream, State))}, State);
answer({delete_stream, _, Stream}, State) ->
    lists:foreach(fun(Event) -> remove(Event, State) end, stream(Stream, State));
answer({get_streams, _}, State) ->
    {ok, lists:usort([Stream || #event{stream_id = Stream} <- all(State)])};
answer({has_events, _}, State) ->
    all(State) =/= [];
answer({store_stats, _}, State) ->
    {ok, #{events => length(all(State))}};
answer({event_type_summary, _}, State) ->
    {ok, lists:foldl(fun(#event{event_type = Type}, Acc) ->
                         maps:update_with(Type, fun(N) -> N + 1 end, 1, Acc)
                     end, #{}, all(State))};
answer({read_by_event_types, _, Types, Batch}, State) ->
    {ok, first(Batch, [E || #event{event_type = Type} = E <- all(State),
                            lists:member(Type, Types)])};
answer({read_by_tags, _, Tags, Match, Batch}, State) ->
    {ok, first(Batch, [E || #event{tags = Has} = E <- all(State), tagged(Match, Tags, Has)])};
answer({read_all_global, _, Offset, Batch}, State) ->
    {ok, first(Batch, lists:nthtail(min(Offset, length(all(State))), all(State)))};

%%% By time

answer({read_until, S, Stream, To}, State) ->
    answer({read_until, S, Stream, To, #{}}, State);
answer({read_until, S, Stream, To, Options}, State) ->
    answer({read_range, S, Stream, 0, To, Options}, State);
answer({read_range, S, Stream, From, To}, State) ->
    answer({read_range, S, Stream, From, To, #{}}, State);
answer({read_range, _, Stream, From, To, Options}, State) ->
    {ok, first(maps:get(limit, Options, 1000),
               [E || #event{timestamp = At} = E <- stream(Stream, State), At >= From, At =< To])};
answer({version_at, _, Stream, At}, State) ->
    Versions = [V || #event{version = V, timestamp = T} <- stream(Stream, State), T =< At],
    {ok, lists:max([?NO_STREAM | Versions])};

%%% Subscriptions and snapshots

answer({Name, _}, State) when Name =:= get_subscriptions; Name =:= list_store_subscriptions ->
    {ok, values(subscription, State)};
answer({get_subscription, _, Name}, State) ->
    one({subscription, Name}, State);
answer({subscription_lag, _, Name}, #state{table = Table} = State) ->
    case one({subscription, Name}, State) of
        {ok, #subscription{selector = Stream, checkpoint = undefined}} ->
            {ok, version(Table, Stream) + 1};
        {ok, #subscription{selector = Stream, checkpoint = Seen}} ->
            {ok, version(Table, Stream) - Seen};
        {error, _} ->
            {error, {subscription_not_found, Name}}
    end;
answer({read_snapshot, _, Source, Stream, Version}, State) ->
    one({snapshot, Source, Stream, Version}, State);
answer({list_snapshots, _, Source, Stream}, #state{table = Table}) ->
    {ok, [S || {_, S} <- ets:match_object(Table, {{snapshot, Source, Stream, '_'}, '_'})]};
answer({list_all_snapshots, _}, #state{table = Table}) ->
    {ok, [S || {_, S} <- ets:match_object(Table, {{snapshot, '_', '_', '_'}, '_'})]};

%%% Scavenging

answer({scavenge, _, Stream, #{keep := Keep}}, State) ->
    Old = old(Stream, Keep, State),
    lists:foreach(fun(Event) -> remove(Event, State) end, Old),
    {ok, length(Old)};
answer({scavenge_matching, S, Pattern, Options}, State) ->
    {ok, Streams} = answer({get_streams, S}, State),
    Matching = [Stream || Stream <- Streams, string:prefix(Stream, Pattern) =/= nomatch],
    {ok, lists:sum([N || Stream <- Matching,
                         {ok, N} <- [answer({scavenge, S, Stream, Options}, State)]])};
answer({scavenge_dry_run, _, Stream, #{keep := Keep}}, State) ->
    {ok, length(old(Stream, Keep, State))};

%%% Causation

answer({get_effects, _, Id}, State) ->
    {ok, caused_by(Id, State)};
answer({get_cause, _, Id}, State) ->
    case cause(Id, State) of
        none -> {error, not_found};
        Event -> {ok, Event}
    end;
answer({get_causation_chain, _, Id}, State) ->
    {ok, chain(by_id(Id, State), [], State)};
answer({get_correlated, _, Id}, State) ->
    {ok, [E || #event{metadata = #{correlation_id := C}} = E <- all(State), C =:= Id]};
answer({build_causation_graph, _, Id}, State) ->
    Effects = [Effect || #event{event_id = Effect} <- caused_by(Id, State)],
    {ok, #{root => Id, edges => [{Id, Effect} || Effect <- Effects]}};

%%% Schemas and links

answer({list_schemas, _}, State) ->
    {ok, values(schema, State)};
answer({get_schema, _, Type}, State) ->
    one({schema, Type}, State);
answer({get_schema_version, _, Type}, State) ->
    case one({schema, Type}, State) of
        {ok, #{version := Version}} -> {ok, Version};
        Error -> Error
    end;
answer({upcast_events, _, Events}, _State) ->
    {ok, [Event#event{data_content_type = ?CONTENT_TYPE_JSON} || Event <- Events]};
answer({list_links, _}, State) ->
    {ok, values(link, State)};
answer({get_link, _, Name}, State) ->
    one({link, Name}, State);
answer({link_info, _, Name}, State) ->
    case one({link, Name}, State) of
        {ok, Link} -> {ok, maps:get(status, Link, stopped)};
        Error -> Error
    end;

%%% The store

answer({get_memory_level, _}, _State) -> {ok, normal};
answer({get_memory_stats, _}, #state{table = Table}) -> {ok, #{words => ets:info(Table, memory)}};
answer({verify_cluster_consistency, _}, _State) -> {ok, #{consistent => true}};
answer({quick_health_check, _}, _State) -> {ok, healthy};
answer({verify_membership_consensus, _}, _State) -> {ok, #{members => [node()]}};
answer({check_raft_log_consistency, _}, _State) -> {ok, consistent};
answer({list_stores}, #state{store = Store}) -> {ok, [Store]};
answer(_Request, _State) -> {error, unknown_request}.

%%% What is not answered

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast(Request, #state{table = Table} = State) ->
    true = carry_out(Request, Table),
    {noreply, State}.

carry_out({save_subscription, _, Type, Selector, Name, _StartFrom, Pid}, Table) ->
    ets:insert(Table, {{subscription, Name},
                       #subscription{id = Name, type = Type, selector = Selector,
                                     subscription_name = Name, subscriber_pid = Pid,
                                     created_at = erlang:system_time(millisecond)}});
carry_out({remove_subscription, _, _Type, _Selector, Name}, Table) ->
    ets:delete(Table, {subscription, Name});
carry_out({ack_event, _, Name, _Pid, #event{version = Version}}, Table) ->
    [{Key, Subscription}] = ets:lookup(Table, {subscription, Name}),
    ets:insert(Table, {Key, Subscription#subscription{checkpoint = Version}});
carry_out({record_snapshot, _, Source, Stream, Version, Record}, Table) ->
    ets:insert(Table, {{snapshot, Source, Stream, Version},
                       #snapshot{stream_id = Stream, version = Version, data = Record,
                                 metadata = #{}, timestamp = erlang:system_time(millisecond)}});
carry_out({delete_snapshot, _, Source, Stream, Version}, Table) ->
    ets:delete(Table, {snapshot, Source, Stream, Version});
carry_out({register_schema, _, Type, Schema}, Table) ->
    ets:insert(Table, {{schema, Type}, Schema});
carry_out({unregister_schema, _, Type}, Table) ->
    ets:delete(Table, {schema, Type});
carry_out({create_link, _, #{name := Name} = Link}, Table) ->
    ets:insert(Table, {{link, Name}, Link});
carry_out({delete_link, _, Name}, Table) ->
    ets:delete(Table, {link, Name});
carry_out({start_link, _, Name}, Table) ->
    link_status(Name, running, Table);
carry_out({stop_link, _, Name}, Table) ->
    link_status(Name, stopped, Table).

link_status(Name, Status, Table) ->
    [{Key, Link}] = ets:lookup(Table, {link, Name}),
    ets:insert(Table, {Key, Link#{status => Status}}).

%%% The table

version(Table, Stream) ->
    case ets:prev(Table, {event, Stream, infinity}) of
        {event, Stream, Version} -> Version;
        _ -> ?NO_STREAM
    end.

stream(Stream, #state{table = Table}) ->
    [Event || {_, Event} <- ets:match_object(Table, {{event, Stream, '_'}, '_'})].

found(Stream, Answer, #state{table = Table}) ->
    case version(Table, Stream) of
        ?NO_STREAM -> {error, {stream_not_found, Stream}};
        _ -> {ok, Answer}
    end.

page(Stream, Start, Count, forward, State) ->
    first(Count, [E || #event{version = V} = E <- stream(Stream, State), V >= Start]);
page(Stream, Start, Count, backward, State) ->
    Before = [E || #event{version = V} = E <- stream(Stream, State), V =< Start],
    first(Count, lists:reverse(Before)).

all(#state{table = Table}) ->
    [Event || {_, Key} <- ets:match_object(Table, {{global, '_'}, '_'}),
              {_, Event} <- ets:lookup(Table, Key)].

first(Count, Events) -> lists:sublist(Events, Count).

tagged(any, Tags, Has) -> lists:any(fun(Tag) -> lists:member(Tag, Has) end, Tags);
tagged(all, Tags, Has) -> lists:all(fun(Tag) -> lists:member(Tag, Has) end, Tags).

old(Stream, Keep, State) ->
    Events = stream(Stream, State),
    first(max(0, length(Events) - Keep), Events).

remove(#event{stream_id = Stream, version = Version}, #state{table = Table}) ->
    true = ets:delete(Table, {event, Stream, Version}).

caused_by(Id, State) ->
    [E || #event{metadata = #{causation_id := C}} = E <- all(State), C =:= Id].

by_id(Id, #state{table = Table}) ->
    case [Event || {_, Key} <- ets:lookup(Table, {id, Id}), {_, Event} <- ets:lookup(Table, Key)] of
        [Event] -> Event;
        [] -> none
    end.

cause(Id, State) ->
    case by_id(Id, State) of
        #event{metadata = #{causation_id := Cause}} -> by_id(Cause, State);
        _ -> none
    end.

chain(none, Chain, _State) -> Chain;
chain(#event{event_id = Id} = Event, Chain, State) ->
    chain(cause(Id, State), [Event | Chain], State).

values(Kind, #state{table = Table}) ->
    [Value || {_, Value} <- ets:match_object(Table, {{Kind, '_'}, '_'})].

one(Key, #state{table = Table}) ->
    case ets:lookup(Table, Key) of
        [{_, Value}] -> {ok, Value};
        [] -> {error, not_found}
    end.
