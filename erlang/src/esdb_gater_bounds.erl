%%% @private
%%% @doc The bounds of messages and topics, which are checked before anything is sent. A gateway
%%% closes the connection over a message that is too large or nested too deep.
%%%
%%% The gateway validates terms before it decodes anything, and a refused term costs this node its
%%% link for a moment, with all calls in progress. The bounds are those of the gateway's scanner
%%% (`gater-term', `Limits'), less the part that a request adds to the message.
%%%
%%% A small message costs one check of its size: nesting of 10,000 levels takes at least 30,000
%%% bytes, so only a larger message is traversed.
%%% @end
-module(esdb_gater_bounds).

-export([message/1, measure/2, publish/1, topic/1]).

-export_type([too_much/0, bad_topic/0]).

-type too_much() :: too_large | too_deep.
-type bad_topic() :: not_binary | empty | too_long.

-define(MAX_TOPIC_BYTES, 255).

-define(ENVELOPE_BYTES, 4096).          % more than a request is without its message
-define(ENVELOPE_TERMS, 64).
-define(MAX_BYTES, (64 bsl 20) - ?ENVELOPE_BYTES).
-define(MAX_TERMS, (16 bsl 20) - ?ENVELOPE_TERMS).
-define(MAX_DEPTH, 10000).
-define(SHALLOW_BYTES, 3 * ?MAX_DEPTH). % a level takes a tuple of two and what stands beside it

%% @doc Checks that a gateway accepts this message: at most 64 MiB in the external format, 16 Mi
%% terms, and 10,000 levels of nested terms. As for the gateway, the last part of a tuple, list or
%% map adds no depth.
-spec message(term()) -> ok | {error, too_much()}.
message(Message) ->
    case measured(Message) of
        {ok, _Bytes} -> ok;
        {error, _} = Error -> Error
    end.

measured(Message) ->
    case erlang:external_size(Message) of
        Size when Size < ?SHALLOW_BYTES -> {ok, Size};
        Size when Size =< ?MAX_BYTES -> walked(Message, Size);
        _ -> {error, too_large}
    end.

%% @doc Whether a gateway takes this topic and message, and how many bytes the message takes.
-spec measure(term(), term()) -> {ok, Bytes :: non_neg_integer()} | {error, bad_topic() | too_much()}.
measure(Topic, Message) ->
    case topic(Topic) of
        ok -> measured(Message);
        {error, _} = Error -> Error
    end.

%% @doc Checks that a gateway accepts this request to publish.
-spec publish(tuple()) -> ok | {error, bad_topic() | too_much()}.
publish({publish, Topic, Message}) ->
    both(topic(Topic), Message);
%% The token is part of the request, so the message is not the last part of it.
publish({publish, Topic, Message, Token}) ->
    both(topic(Topic), {Message, Token}).

both(ok, Message) -> message(Message);
both({error, _} = Error, _Message) -> Error.

walked(Message, Bytes) ->
    try
        _ = walk(Message, 0, ?MAX_TERMS),
        {ok, Bytes}
    catch
        throw:{?MODULE, Reason} -> {error, Reason}
    end.

%% `Open' is the number of containers around the term. Returns the number of further terms that are
%% allowed.
walk(_Term, _Open, Left) when Left =< 0 -> throw({?MODULE, too_large});
walk([_ | _] = List, Open, Left) -> elements(List, enter(Open), Open, Left - 1);
walk({}, _Open, Left) -> Left - 1;
walk(Tuple, Open, Left) when is_tuple(Tuple) ->
    tuple(Tuple, 1, tuple_size(Tuple), enter(Open), Open, Left - 1);
walk(Map, Open, Left) when map_size(Map) > 0 ->
    pairs(maps:next(maps:iterator(Map)), enter(Open), Open, Left - 1);
walk(Fun, Open, Left) when is_function(Fun) ->
    %% Only the environment of a fun can be nested; its other parts are flat.
    case erlang:fun_info(Fun, env) of
        {env, [_ | _] = Environment} -> elements(Environment, enter(Open), Open, Left - 8);
        {env, _} -> Left - 1
    end;
walk(_Flat, _Open, Left) -> Left - 1.

enter(Open) when Open < ?MAX_DEPTH -> Open + 1;
enter(_Open) -> throw({?MODULE, too_deep}).

%% The tail is the last part, so a list that is the tail of another list has the same depth.
elements([Flat | Rest], Inside, Open, Left)
  when is_integer(Flat), Left > 0; is_atom(Flat), Left > 0; is_float(Flat), Left > 0 ->
    elements(Rest, Inside, Open, Left - 1);
elements([Element | Rest], Inside, Open, Left) ->
    elements(Rest, Inside, Open, walk(Element, Inside, Left));
elements(Tail, _Inside, Open, Left) ->
    walk(Tail, Open, Left).

tuple(Tuple, Size, Size, _Inside, Open, Left) ->
    walk(element(Size, Tuple), Open, Left);
tuple(Tuple, I, Size, Inside, Open, Left) ->
    tuple(Tuple, I + 1, Size, Inside, Open, walk(element(I, Tuple), Inside, Left)).

pairs({Key, Value, Iterator}, Inside, Open, Left) ->
    More = walk(Key, Inside, Left),
    case maps:next(Iterator) of
        none -> walk(Value, Open, More);
        Next -> pairs(Next, Inside, Open, walk(Value, Inside, More))
    end.

%% @doc Checks that this is a topic: a binary of 1 to 255 bytes.
-spec topic(term()) -> ok | {error, {bad_topic, bad_topic()}}.
topic(Topic) when is_binary(Topic), byte_size(Topic) > 0, byte_size(Topic) =< ?MAX_TOPIC_BYTES -> ok;
topic(<<>>) -> {error, {bad_topic, empty}};
topic(Topic) when is_binary(Topic) -> {error, {bad_topic, too_long}};
topic(_Topic) -> {error, {bad_topic, not_binary}}.
