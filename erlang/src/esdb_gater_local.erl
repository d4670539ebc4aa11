%%% @private
%%% @doc The subscribers of this node, for publishers of this node: they send to them directly.
%%%
%%% The relay of a channel keeps, for each topic, a row with the processes it would hand the topic
%%% out to. All that a publisher sends to a subscriber here goes this way, so its messages keep
%%% their order. Subscribers that the gateway sends to under their own pid are not among them.
%%% @end
-module(esdb_gater_local).

-export([tables/0, deliver/3, changed/3, kept/2]).

-define(TABLE, esdb_gater_local_subscribers).
%% More are looked up one by one, so that a subscription costs no more than so many copies.
-define(MOST_LISTED, 1024).

%% @doc The tables to make, as arguments of `ets:new/2'.
-spec tables() -> [{atom(), [term()]}].
tables() ->
    [{?TABLE, [set, public, named_table, {read_concurrency, true}]}].

%% @doc Sends a message to the subscribers of a topic on this node.
-spec deliver(Channel :: atom(), Topic :: binary(), Message :: term()) -> ok.
deliver(Channel, Topic, Message) ->
    try ets:lookup(?TABLE, {Channel, Topic}) of
        [] ->
            ok;
        [{_, many}] ->
            Sent = {channel_message, Channel, Topic, Message},
            esdb_gater_relay:foreach_local(Channel, Topic, fun(Pid) -> Pid ! Sent end);
        [{_, Pids}] ->
            send(Pids, {channel_message, Channel, Topic, Message})
    catch
        error:badarg -> ok                          % the application has just stopped
    end.

send([Pid | Pids], Message) ->
    Pid ! Message,
    send(Pids, Message);
send([], _Message) ->
    ok.

%% @doc The topic has these subscribers now.
-spec changed(Channel :: atom(), Topic :: binary(), #{pid() => term()}) -> ok.
changed(Channel, Topic, Pids) when map_size(Pids) =:= 0 ->
    true = ets:delete(?TABLE, {Channel, Topic}),
    ok;
changed(Channel, Topic, Pids) when map_size(Pids) > ?MOST_LISTED ->
    true = ets:insert(?TABLE, {{Channel, Topic}, many}),
    ok;
changed(Channel, Topic, Pids) ->
    true = ets:insert(?TABLE, {{Channel, Topic}, maps:keys(Pids)}),
    ok.

%% @doc The channel has no topics but these.
-spec kept(Channel :: atom(), Topics :: #{binary() => term()}) -> ok.
kept(Channel, Topics) ->
    {Exactly, Guards} = esdb_gater_match:exactly(Channel, '$2'),
    Known = ets:select(?TABLE, [{{{Exactly, '$1'}, '_'}, Guards, ['$1']}]),
    lists:foreach(fun(Topic) -> true = ets:delete(?TABLE, {Channel, Topic}) end,
                  [Topic || Topic <- Known, not is_map_key(Topic, Topics)]).
