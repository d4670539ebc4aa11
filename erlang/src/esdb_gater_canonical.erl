%%% @private
%%% @doc The canonical form of a message: the bytes that are signed.
%%%
%%% They are `term_to_binary(lists:sort(maps:to_list(Map)), [deterministic, {minor_version, 2}])'
%%% of the map without its `signature': atoms in UTF-8, every map inside with its keys in the
%%% order of terms. Equal maps give equal bytes on every release of OTP from 25 on, on every
%%% node and in whatever order they were made. `gater_term::canonical' gives the same.
%%% @end
-module(esdb_gater_canonical).

-export([bytes/1, bytes/2]).

%% @doc The canonical form of a map.
-spec bytes(map()) -> binary().
bytes(Message) ->
    bytes(Message, utf8).

%% @doc The canonical form with atoms in UTF-8, or in Latin-1 where the text allows, as OTP 25
%% and earlier write them.
-spec bytes(map(), utf8 | latin1) -> binary().
bytes(Message, Atoms) ->
    Pairs = lists:sort(maps:to_list(maps:remove(signature, Message))),
    term_to_binary(ties(Pairs), [deterministic, {minor_version, minor_version(Atoms)}]).

minor_version(utf8) -> 2;
minor_version(latin1) -> 1.

%% Pairs that are equal in the order of terms and yet not the same, as {1, a} and {1.0, a},
%% stand in the order in which the map gave them, which is not defined for large maps. They are
%% put in the order of keys: integers first.
ties([A, B | _] = Pairs) when A == B ->
    {Tied, Rest} = lists:splitwith(fun(Pair) -> Pair == A end, Pairs),
    lists:sort(fun in_key_order/2, Tied) ++ ties(Rest);
ties([A | Pairs]) ->
    [A | ties(Pairs)];
ties([]) ->
    [].

in_key_order({A, _}, {B, _}) ->
    hd(maps:keys(#{A => first, B => second})) =:= A.
