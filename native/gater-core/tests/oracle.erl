#!/usr/bin/env escript
%%! +sbtu
%% Answers questions about terms for the Rust tests. A question is a length of
%% four bytes, one byte that says what is asked, and an encoded term without its
%% version byte; an answer is a length and bytes.
%%   $d  does it decode, using all bytes?                   1 | 0
%%   $e  how does this node encode it?                      bytes without 131
%%   $c  the canonical form of the map                      bytes
%%   $l  the same with atoms in Latin-1                      bytes
%%   $<  {A, B}: how do they compare?                       $< | $= | $>
%%   $k  {A, B}: how do they compare as keys of a map?      $< | $= | $>
%%   $g  {Seed, Size}: a random term                        bytes without 131
-mode(compile).

main(_) ->
    ok = io:setopts(standard_io, [binary, {encoding, latin1}]),
    loop().

loop() ->
    case file:read(standard_io, 4) of
        {ok, <<Len:32>>} ->
            {ok, <<What, Bytes/binary>>} = file:read(standard_io, Len),
            Answer = iolist_to_binary(answer(What, Bytes)),
            ok = file:write(standard_io, [<<(byte_size(Answer)):32>>, Answer]),
            loop();
        eof ->
            ok
    end.

answer($d, Bytes) ->
    try binary_to_term(<<131, Bytes/binary>>, [used]) of
        {_, Used} when Used =:= byte_size(Bytes) + 1 -> <<1>>;
        _ -> <<0>>
    catch
        error:badarg -> <<0>>
    end;
answer($e, Bytes) ->
    encode(decode(Bytes));
answer($c, Bytes) ->
    term_to_binary(lists:sort(maps:to_list(decode(Bytes))), [deterministic, {minor_version, 2}]);
answer($l, Bytes) ->
    term_to_binary(lists:sort(maps:to_list(decode(Bytes))), [deterministic, {minor_version, 1}]);
answer($<, Bytes) ->
    {A, B} = decode(Bytes),
    if
        A < B -> "<";
        A == B -> "=";
        true -> ">"
    end;
answer($k, Bytes) ->
    {A, B} = decode(Bytes),
    %% The keys of a map compare in their own order, before the values.
    {X, Y} = {#{A => 0}, #{B => 0}},
    if
        X < Y -> "<";
        X == Y -> "=";
        true -> ">"
    end;
answer($g, Bytes) ->
    {Seed, Size} = decode(Bytes),
    _ = rand:seed(exsss, Seed),
    Map = map(Size),
    case Seed rem 2 of
        0 -> encode(Map);
        1 -> otherwise(Map)
    end.

decode(Bytes) -> binary_to_term(<<131, Bytes/binary>>).

encode(Term) ->
    <<131, Bytes/binary>> = term_to_binary(Term),
    Bytes.

%% As no release writes it and all read it.
otherwise(Atom) when is_atom(Atom) ->
    Text = atom_to_binary(Atom),
    Latin1 = case unicode:characters_to_binary(Text, utf8, latin1) of
        Bytes when is_binary(Bytes) -> [[115, byte_size(Bytes), Bytes], [100, <<(byte_size(Bytes)):16>>, Bytes]];
        _ -> []
    end,
    Small = [[119, byte_size(Text), Text] || byte_size(Text) < 256],
    iolist_to_binary(pick([[118, <<(byte_size(Text)):16>>, Text] | Small ++ Latin1]));
otherwise(Integer) when is_integer(Integer) ->
    Sign = if Integer < 0 -> 1; true -> 0 end,
    Magnitude = [binary:encode_unsigned(abs(Integer), little), <<0:(8 * (rand:uniform(3) - 1))>>],
    Length = iolist_size(Magnitude),
    Small = [[110, Length, Sign, Magnitude] || Length < 256],
    iolist_to_binary(pick([encode(Integer), [111, <<Length:32>>, Sign, Magnitude] | Small]));
otherwise(Bytes) when is_binary(Bytes), Bytes =/= <<>> ->
    pick([encode(Bytes), <<77, (byte_size(Bytes)):32, 8, Bytes/binary>>]);
otherwise(List) when is_list(List) ->
    case rand:uniform(3) of
        1 -> encode(List);
        _ -> iolist_to_binary(cells(List))
    end;
otherwise(Tuple) when is_tuple(Tuple) ->
    Elements = [otherwise(Element) || Element <- tuple_to_list(Tuple)],
    iolist_to_binary(pick([[104, tuple_size(Tuple), Elements], [105, <<(tuple_size(Tuple)):32>>, Elements]]));
otherwise(Map) when is_map(Map) ->
    Pairs = lists:sort([{rand:uniform(), otherwise(Key), otherwise(Value)} || {Key, Value} <- maps:to_list(Map)]),
    iolist_to_binary([116, <<(map_size(Map)):32>>, [[Key, Value] || {_, Key, Value} <- Pairs]]);
otherwise(Term) ->
    encode(Term).

%% A list in pieces, of which some have no elements.
cells([]) ->
    case rand:uniform(3) of
        1 -> <<106>>;
        2 -> <<107, 0:16>>;
        3 -> [<<108, 0:32>>, cells([])]
    end;
cells([_ | _] = List) ->
    {Piece, Rest} = piece(rand:uniform(4) - 1, List),
    Bytes = [Byte || Byte <- Piece, is_integer(Byte), Byte >= 0, Byte < 256],
    case Rest of
        [] when Bytes =:= Piece -> [<<107, (length(Piece)):16>>, Piece];
        _ -> [<<108, (length(Piece)):32>>, [otherwise(Element) || Element <- Piece], cells(Rest)]
    end;
cells(Tail) ->
    otherwise(Tail).

piece(Left, [Element | Rest]) when Left > 0 ->
    {Piece, After} = piece(Left - 1, Rest),
    {[Element | Piece], After};
piece(_, Rest) ->
    {[], Rest}.

map(Size) ->
    %% Large maps have small contents, so that terms stay below some 10 KB.
    N = pick([0, 1, 2, 3, 5, 8] ++ [N || Size < 10, N <- [31, 32, 33, 40]]),
    maps:from_list([{key(Size), term(Size)} || _ <- lists:seq(1, N)]).

key(Size) ->
    case rand:uniform(3) of
        1 -> atom();
        2 -> number();
        3 -> term(Size div 4)
    end.

term(Size) when Size =< 0 ->
    case rand:uniform(10) of
        1 -> atom();
        2 -> atom();
        3 -> number();
        4 -> number();
        5 -> rand:bytes(rand:uniform(40));
        6 -> <<(rand:uniform(1 bsl 20)):(rand:uniform(23))>>;
        7 -> [];
        8 -> [rand:uniform(256) - 1 || _ <- lists:seq(1, rand:uniform(8))];
        9 -> identifier();
        10 -> pick([{}, <<>>, "", #{}])
    end;
term(Size) ->
    Less = Size div 3,
    Many = lists:seq(1, rand:uniform(5)),
    case rand:uniform(7) of
        1 -> [term(Less) || _ <- Many];
        2 -> [term(Less) | term(Less)];
        3 -> list_to_tuple([term(Less) || _ <- Many]);
        4 -> map(Less);
        5 -> [number() || _ <- Many];
        _ -> term(0)
    end.

atom() ->
    pick([a, b, z, ok, '', 'A', type, signed_at, 'é', 'ÿ', 'Ā', '日本', true, false,
          list_to_atom(lists:duplicate(255, $x)), list_to_atom(lists:duplicate(255, 233)),
          list_to_atom(lists:duplicate(200, 8364)), list_to_atom([rand:uniform(255)])]).

number() ->
    Small = rand:uniform(520) - 260,
    Wide = rand:uniform(1 bsl 40) - (1 bsl 39),
    Big = (rand:uniform(1 bsl 58) bsl rand:uniform(120)) * pick([1, -1]),
    Edge = (1 bsl pick([8, 27, 31, 32, 53, 59, 60, 63, 64, 2039, 2040, 2100]))
        + pick([-1, 0, 1]),
    Float = (rand:uniform() - 0.5) * math:pow(10, rand:uniform(60) - 30),
    pick([Small, Small, Wide, Big, Edge, -Edge, Float, float(Small), float(Wide), 0.0]).

identifier() ->
    Node = pick([<<119, 3, "a@h">>, <<119, 3, "b@h">>, <<119, 4, 195, 169, "@h">>]),
    Number = fun() -> rand:uniform(3) - 1 end,
    case rand:uniform(5) of
        1 ->
            decode(<<88, Node/binary, (Number()):32, (Number()):32, (Number() + 1):32>>);
        2 ->
            decode(<<120, Node/binary, (Number()):64, (Number() + 1):32>>);
        3 ->
            %% Those of 5 words have crashed VMs of OTP 25 now and then.
            Words = 3,
            decode(<<90, Words:16, Node/binary, (Number() + 1):32,
                     << <<(Number()):32>> || _ <- lists:seq(1, Words) >>/binary>>);
        4 ->
            pick([fun lists:map/2, fun lists:sort/1, fun erlang:halt/0, fun 'é':'日'/3]);
        5 ->
            X = Number(),
            Y = atom(),
            pick([fun() -> X end, fun(Z) -> {X, Y, Z} end])
    end.

pick(List) -> lists:nth(rand:uniform(length(List)), List).
