%% @doc The alternative: a gateway as one would write it in Erlang. A gen_server per channel
%% with monitors and one `!' per subscriber, the same checks and the same messages.
-module(plain_gateway).
-behaviour(gen_server).

-export([start/0, start_link/2]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-record(channel, {
    name :: atom(),
    max_rate :: pos_integer() | infinity,
    hmac :: required | optional,
    secret :: binary(),
    %% Pids of a topic, ready to be walked.
    topics = #{} :: #{binary() => [pid()]},
    processes = #{} :: #{pid() => {reference(), #{binary() => []}}},
    %% Tokens left and when they were counted, in nanoseconds' worth.
    buckets = #{} :: #{binary() => {number(), integer()}}
}).
-record(registry, {
    stores = #{} :: #{atom() => [{node(), pid()}]},
    processes = #{} :: #{pid() => {reference(), #{atom() => []}}}
}).

-define(TTL_SECONDS, 300).
-define(SIGN_OPTIONS, [deterministic, {minor_version, 2}]).

%% @doc Entry of a node of its own: starts everything, says `ready' and stops at the end of
%% standard input.
-spec start() -> ok.
start() ->
    Secret = list_to_binary(os:getenv("ESDB_GATER_SECRET", "secret")),
    {ok, _} = start_link(esdb_gater_worker_registry, registry),
    _ = [{ok, _} = start_link(Name, {channel, Rate, Hmac, Secret})
         || {Name, Rate, Hmac} <- channels()],
    io:format("ready node=~s port=0~n", [node()]),
    spawn(fun stop_at_end_of_input/0),
    ok.

stop_at_end_of_input() ->
    case io:get_line("") of
        Line when is_list(Line); is_binary(Line) -> stop_at_end_of_input();
        _ -> halt(0)
    end.

channels() ->
    [{esdb_channel_alerts, infinity, required},
     {esdb_channel_security, infinity, required},
     {esdb_channel_events, infinity, optional},
     {esdb_channel_health, 100, optional},
     {esdb_channel_system, infinity, optional},
     {esdb_channel_metrics, 10000, optional},
     {esdb_channel_audit, infinity, optional},
     {esdb_channel_lifecycle, infinity, optional},
     {esdb_channel_logging, 1000, optional},
     {esdb_channel_diagnostics, 100, optional}].

-spec start_link(atom(), registry | {channel, pos_integer() | infinity, atom(), binary()}) ->
    gen_server:start_ret().
start_link(Name, Args) ->
    %% Unread messages stay out of the collected heap: what a busy server wants.
    Options = [{spawn_opt, [{message_queue_data, off_heap}]}],
    gen_server:start_link({local, Name}, ?MODULE, {Name, Args}, Options).

-spec init(term()) -> {ok, #channel{} | #registry{}}.
init({_, registry}) ->
    {ok, #registry{}};
init({Name, {channel, Rate, Hmac, Secret}}) ->
    {ok, #channel{name = Name, max_rate = Rate, hmac = Hmac, secret = Secret}}.

-spec handle_call(term(), gen_server:from(), State) -> {reply, term(), State}.
handle_call({publish, Topic, Message}, _From, #channel{} = Channel) ->
    {Reply, Next} = publish(Topic, Message, Channel),
    {reply, Reply, Next};
handle_call({subscribe, Topic, Pid}, _From, #channel{} = Channel) ->
    {reply, ok, subscribe(Topic, Pid, Channel)};
handle_call({unsubscribe, Topic, Pid}, _From, #channel{} = Channel) ->
    {reply, ok, unsubscribe(Topic, Pid, Channel)};
handle_call({get_subscribers, Topic}, _From, #channel{topics = Topics} = Channel) ->
    {reply, maps:get(Topic, Topics, []), Channel};
handle_call({get_workers, Store}, _From, #registry{stores = Stores} = Registry) ->
    {reply, {ok, maps:get(Store, Stores, [])}, Registry};
handle_call({register, Store, Pid}, _From, #registry{} = Registry) ->
    {reply, ok, register_worker(Store, Pid, Registry)};
handle_call({unregister, Store, Pid}, _From, #registry{} = Registry) ->
    {reply, ok, unregister_worker(Store, Pid, Registry)};
handle_call(Request, _From, State) ->
    {reply, {error, {unknown_request, Request}}, State}.

-spec handle_cast(term(), State) -> {noreply, State}.
handle_cast({publish, Topic, Message}, #channel{} = Channel) ->
    {_, Next} = publish(Topic, Message, Channel),
    {noreply, Next};
handle_cast({subscribe, Topic, Pid}, #channel{} = Channel) ->
    {noreply, subscribe(Topic, Pid, Channel)};
handle_cast({unsubscribe, Topic, Pid}, #channel{} = Channel) ->
    {noreply, unsubscribe(Topic, Pid, Channel)};
handle_cast(_, State) ->
    {noreply, State}.

-spec handle_info(term(), State) -> {noreply, State}.
handle_info({'DOWN', _, process, Pid, _}, #channel{} = Channel) ->
    {_, Topics} = maps:get(Pid, Channel#channel.processes, {none, #{}}),
    {noreply, lists:foldl(fun(T, C) -> unsubscribe(T, Pid, C) end, Channel, maps:keys(Topics))};
handle_info({'DOWN', _, process, Pid, _}, #registry{} = Registry) ->
    {_, Stores} = maps:get(Pid, Registry#registry.processes, {none, #{}}),
    Gone = fun(Store, R) -> unregister_worker(Store, Pid, R) end,
    {noreply, lists:foldl(Gone, Registry, maps:keys(Stores))};
handle_info(_, State) ->
    {noreply, State}.

publish(Topic, Message, #channel{hmac = required} = Channel)
  when not is_map_key(signature, Message) ->
    _ = Topic,
    {{error, signature_required}, Channel};
publish(Topic, Message, Channel0) ->
    case take_token(Topic, Channel0) of
        {false, Channel} ->
            {{error, rate_limited}, Channel};
        {true, Channel} ->
            case verify(Message, Channel) of
                ok ->
                    #channel{name = Name, topics = Topics} = Channel,
                    send(maps:get(Topic, Topics, []), {channel_message, Name, Topic, Message}),
                    {ok, Channel};
                Error ->
                    {Error, Channel}
            end
    end.

send([Pid | Pids], Message) ->
    Pid ! Message,
    send(Pids, Message);
send([], _) ->
    ok.

take_token(_, #channel{max_rate = infinity} = Channel) ->
    {true, Channel};
take_token(Topic, #channel{max_rate = Rate, buckets = Buckets} = Channel) ->
    Now = erlang:monotonic_time(nanosecond),
    {Left, Since} = maps:get(Topic, Buckets, {Rate, Now}),
    Tokens = min(Rate, Left + (Now - Since) * Rate / 1.0e9),
    case Tokens >= 1 of
        true -> {true, Channel#channel{buckets = Buckets#{Topic => {Tokens - 1, Now}}}};
        false -> {false, Channel}
    end.

verify(_, #channel{hmac = optional}) ->
    ok;
verify(#{signature := Signature, signed_at := At} = Message, #channel{secret = Secret}) ->
    Age = erlang:system_time(second) - At,
    Signed = lists:sort(maps:to_list(maps:remove(signature, Message))),
    Mac = crypto:mac(hmac, sha256, Secret, term_to_binary(Signed, ?SIGN_OPTIONS)),
    if
        Age > ?TTL_SECONDS; Age < -5 -> {error, message_expired};
        true ->
            case crypto:hash_equals(Mac, base64:decode(Signature)) of
                true -> ok;
                false -> {error, invalid_signature}
            end
    end;
verify(_, _) ->
    {error, missing_timestamp}.

subscribe(Topic, Pid, #channel{topics = Topics, processes = Processes} = Channel) ->
    {Monitor, Of} = watched(Pid, Processes),
    case Of of
        #{Topic := _} ->
            Channel;
        #{} ->
            Pids = maps:get(Topic, Topics, []),
            Channel#channel{topics = Topics#{Topic => [Pid | Pids]},
                            processes = Processes#{Pid => {Monitor, Of#{Topic => []}}}}
    end.

unsubscribe(Topic, Pid, #channel{topics = Topics, processes = Processes} = Channel) ->
    Channel#channel{topics = without(Topic, Pid, fun(P) -> P end, Topics),
                    processes = unwatched(Pid, Topic, Processes)}.

register_worker(Store, Pid, #registry{stores = Stores, processes = Processes} = Registry) ->
    {Monitor, Of} = watched(Pid, Processes),
    case Of of
        #{Store := _} ->
            Registry;
        #{} ->
            Workers = maps:get(Store, Stores, []),
            Registry#registry{stores = Stores#{Store => Workers ++ [{node(Pid), Pid}]},
                              processes = Processes#{Pid => {Monitor, Of#{Store => []}}}}
    end.

unregister_worker(Store, Pid, #registry{stores = Stores, processes = Processes} = Registry) ->
    Registry#registry{stores = without(Store, Pid, fun({_, P}) -> P end, Stores),
                      processes = unwatched(Pid, Store, Processes)}.

watched(Pid, Processes) ->
    case Processes of
        #{Pid := Known} -> Known;
        #{} -> {monitor(process, Pid), #{}}
    end.

unwatched(Pid, Key, Processes) ->
    case Processes of
        #{Pid := {Monitor, #{Key := _} = Keys}} when map_size(Keys) =:= 1 ->
            demonitor(Monitor, [flush]),
            maps:remove(Pid, Processes);
        #{Pid := {Monitor, Keys}} ->
            Processes#{Pid := {Monitor, maps:remove(Key, Keys)}};
        #{} ->
            Processes
    end.

without(Key, Pid, PidOf, Map) ->
    case [Entry || Entry <- maps:get(Key, Map, []), PidOf(Entry) =/= Pid] of
        [] -> maps:remove(Key, Map);
        Entries -> Map#{Key => Entries}
    end.
