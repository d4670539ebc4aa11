%%% @private
%%% @doc The canonical form of a message: the bytes that are signed.
%%%
%%% It is `term_to_binary(lists:sort(maps:to_list(Map)), [deterministic, {minor_version, 2}])' of
%%% the map without its `signature': atoms are in UTF-8, and every nested map has its keys in term
%%% order. Equal maps have equal canonical bytes on every release of OTP from 25 on, on every node
%%% and in whatever order they were made. `gater_term::canonical' returns the same bytes.
%%% @end
-module(esdb_gater_canonical).

-export([bytes/1, bytes/2, other_ports/1, has_local_fun/1]).

%% @doc Returns the canonical form of a map.
-spec bytes(map()) -> binary().
bytes(Message) ->
    bytes(Message, utf8).

%% @doc Returns the canonical form with atoms in UTF-8, or in Latin-1 where the text allows it, as
%% OTP 25 and earlier write them.
-spec bytes(map(), utf8 | latin1) -> binary().
bytes(Message, Atoms) ->
    Pairs = lists:sort(maps:to_list(maps:remove(signature, Message))),
    term_to_binary(ties(Pairs), [deterministic, {minor_version, minor_version(Atoms)}]).

%% @doc Returns the same bytes with all ports in their other encoding, or an empty list if there are
%% no ports. Up to OTP 25 a port has a narrow encoding, unless its number needs more, and since OTP
%% 26 a wide one. A signature may be over either.
-spec other_ports(binary()) -> [binary()].
other_ports(<<131, Terms/binary>>) ->
    case rewrite(Terms, [], false) of
        {true, Rewritten} -> [iolist_to_binary([131 | lists:reverse(Rewritten)])];
        {false, _} -> []
    end.

%% Each term begins with its tag and the length of its own data; nested terms follow one after the
%% other.
rewrite(<<89, Atom/binary>>, Done, _) ->
    {Node, <<Number:32, Creation:4/binary, Rest/binary>>} = cut(Atom, atom_bytes(Atom)),
    rewrite(Rest, [<<120, Node/binary, Number:64, Creation/binary>> | Done], true);
rewrite(<<120, Atom/binary>>, Done, Ports) ->
    case cut(Atom, atom_bytes(Atom)) of
        {Node, <<Number:64, Creation:4/binary, Rest/binary>>} when Number < 1 bsl 28 ->
            rewrite(Rest, [<<89, Node/binary, Number:32, Creation/binary>> | Done], true);
        {Node, <<Number:64, Creation:4/binary, Rest/binary>>} ->
            rewrite(Rest, [<<120, Node/binary, Number:64, Creation/binary>> | Done], Ports)
    end;
rewrite(<<>>, Done, Ports) ->
    {Ports, Done};
rewrite(Terms, Done, Ports) ->
    {Head, Rest} = cut(Terms, head_bytes(Terms)),
    rewrite(Rest, [Head | Done], Ports).

cut(Binary, Bytes) ->
    <<Head:Bytes/binary, Rest/binary>> = Binary,
    {Head, Rest}.

head_bytes(<<Tag, _/binary>>) when Tag =:= 106; Tag =:= 113 -> 1;
head_bytes(<<Tag, _/binary>>) when Tag =:= 97; Tag =:= 104 -> 2;
head_bytes(<<Tag, _/binary>>) when Tag =:= 98; Tag =:= 105; Tag =:= 108; Tag =:= 116 -> 5;
head_bytes(<<70, _/binary>>) -> 9;
head_bytes(<<107, Length:16, _/binary>>) -> 3 + Length;
head_bytes(<<109, Length:32, _/binary>>) -> 5 + Length;
head_bytes(<<77, Length:32, _/binary>>) -> 6 + Length;
head_bytes(<<110, Length, _/binary>>) -> 3 + Length;
head_bytes(<<111, Length:32, _/binary>>) -> 6 + Length;
head_bytes(<<88, Atom/binary>>) -> 1 + atom_bytes(Atom) + 12;
head_bytes(<<90, Words:16, Atom/binary>>) -> 3 + atom_bytes(Atom) + 4 + 4 * Words;
head_bytes(<<112, _/binary>>) -> 30;
head_bytes(Atom) -> atom_bytes(Atom).

atom_bytes(<<Tag, Length, _/binary>>) when Tag =:= 119; Tag =:= 115 -> 2 + Length;
atom_bytes(<<Tag, Length:16, _/binary>>) when Tag =:= 118; Tag =:= 100 -> 3 + Length.

%% @doc Returns whether a term contains a local fun. The bytes of a local fun name the process and
%% the node that write it, so no other writer produces the same bytes.
-spec has_local_fun(term()) -> boolean().
has_local_fun([Head | Tail]) ->
    has_local_fun(Head) orelse has_local_fun(Tail);
has_local_fun(Tuple) when is_tuple(Tuple) ->
    has_local_fun(tuple_to_list(Tuple));
has_local_fun(Map) when is_map(Map) ->
    has_local_fun(maps:to_list(Map));
has_local_fun(Fun) when is_function(Fun) ->
    erlang:fun_info(Fun, type) =:= {type, local};
has_local_fun(_) ->
    false.

minor_version(utf8) -> 2;
minor_version(latin1) -> 1.

%% Pairs that are equal in term order but not identical, such as {1, a} and {1.0, a}, come in the
%% order of the map's iterator, which is undefined for large maps. They are put into key order, with
%% integers first.
ties([A, B | _] = Pairs) when A == B ->
    {Tied, Rest} = lists:splitwith(fun(Pair) -> Pair == A end, Pairs),
    lists:sort(fun in_key_order/2, Tied) ++ ties(Rest);
ties([A | Pairs]) ->
    [A | ties(Pairs)];
ties([]) ->
    [].

in_key_order({A, _}, {B, _}) ->
    hd(maps:keys(#{A => first, B => second})) =:= A.
